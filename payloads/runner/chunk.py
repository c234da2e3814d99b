"""A job's Butler: knows what it was shipped and what it wrote itself, and guesses nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lsst.daf.butler import ButlerConfig, DatasetRef, QuantumBackedButler
from lsst.daf.butler.datastore.record_data import DatastoreRecordData

from backbone.butler import DATASTORE, checksum_of
from payloads.runner.cached import InputCache
from payloads.runner.products import DirectWriter
from workflow.job import TABLE, ZIP, infos


class ChunkButler:
    """One QuantumBackedButler for a whole job: one for each quantum would cost some 35 ms each time.

    Metadata and logs that no quantum of this job reads are kept as members for a zip instead of being written as files: a third
    of the objects, and 4 ms less per quantum. SingleQuantumExecutor closes what its factory gives it, so here
    `close` does nothing.
    """

    def __init__(
        self,
        config: ButlerConfig,
        quanta: Iterable[Any],
        *,
        universe: Any,
        dataset_types: Mapping[str, Any],
        shipped: DatastoreRecordData,
        cache: InputCache | None = None,
    ) -> None:
        quanta = list(quanta)
        records = DatastoreRecordData.merge_mappings(*[q.datastore_records or {} for q in quanta], {DATASTORE: shipped})
        self.known = set(records[DATASTORE].records)
        self._inputs = {ref.id for q in quanta for refs in q.inputs.values() for ref in refs}
        self._inputs |= {ref.id for q in quanta for ref in q.initInputs.values()}
        self._butler = QuantumBackedButler.from_predicted(
            config=config,
            dimensions=universe,
            dataset_types=dataset_types,
            datastore_records=records,
            predicted_inputs=self._inputs,
            predicted_outputs=[ref.id for q in quanta for refs in q.outputs.values() for ref in refs],
        )
        # QuantumBackedButler always trusts: what has no record is looked for at its predicted path, accepted or not.
        self._butler._datastore._set_trust_mode(False)
        # On the instance, since FileDatastore._create_from_config makes a FileDatastore whatever `datastore.cls` says.
        self._butler._datastore.computeChecksum = checksum_of
        self._butler._datastore._write_in_memory_to_artifact = DirectWriter(self._butler._datastore)
        self._register = self._butler._datastore._register_datasets
        self._butler._datastore._register_datasets = self._note
        self._look_up = self._butler._datastore.getStoredItemsInfo
        self._butler._datastore.getStoredItemsInfo = self._infos_of
        self._shipped = records[DATASTORE].records
        if cache is not None:
            cache.records = self._shipped
            self._butler._datastore.cacheManager = cache
        self._written: dict[Any, list[Any]] = {}
        self._members: list[tuple[DatasetRef, bytes]] = []
        self._member_infos: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._butler, name)

    def close(self) -> None:
        """Nothing: the next quantum needs it."""

    def _note(self, refs_and_infos: Iterable[tuple[DatasetRef, Any]], *args: Any, **kwargs: Any) -> None:
        """In place of the datastore's own: keeps the records of what was written at hand. Into its tables, which are an SQLite,
        go those alone that a later quantum of this job reads: to write them and read them back is a third of a short quantum.
        """
        pairs = list(refs_and_infos)
        for ref, info in pairs:
            self._written.setdefault(ref.id, []).append(info)
        if read_here := [(ref, info) for ref, info in pairs if ref.id in self._inputs]:
            self._register(read_here, *args, **kwargs)

    def _infos_of(self, ref: Any, *args: Any, **kwargs: Any) -> Any:
        """In place of the datastore's own: what was shipped is at hand, without asking the SQLite."""
        shipped = self._shipped.get(ref.id)
        return shipped[TABLE] if shipped is not None else self._look_up(ref, *args, **kwargs)

    def put(self, obj: Any, ref: DatasetRef, /, **kwargs: Any) -> DatasetRef:
        """Write a dataset, or keep it for the zip."""
        if ref.datasetType.name.endswith(("_metadata", "_log")) and ref.id not in self._inputs:
            text = obj.to_json_data() if hasattr(obj, "to_json_data") else obj.model_dump_json()
            self._members.append((ref, text.encode()))
            return ref
        self.known.add(ref.id)
        return self._butler.put(obj, ref, **kwargs)

    def take(self) -> tuple[DatastoreRecordData, dict[str, bytes]]:
        """Records of all that was put since the last call, and the zip's members by name; the zip's own name is `ZIP` as yet."""
        data = DatastoreRecordData(records={dataset: {TABLE: infos} for dataset, infos in self._written.items()})
        members = {f"{ref.id}.json": content for ref, content in self._members}
        for ref, content in self._members:  # Butler reads such members natively: it is what ingest_zip records
            path = f"{ZIP}#zip-path={ref.id}.json"
            data.records[ref.id] = {TABLE: [self._member_info(ref).update(path=path, file_size=len(content))]}
        self._written, self._members = {}, []
        return data, members

    def _member_info(self, ref: DatasetRef) -> Any:
        """A record of this dataset type, as the datastore would have made it but for path and size."""
        name = ref.datasetType.name
        if name not in self._member_infos:
            ((_, info),) = infos(self._butler.export_predicted_datastore_records([ref])[DATASTORE])
            self._member_infos[name] = info
        return self._member_infos[name]

    def forget(self, datasets: Iterable[Any]) -> None:
        """Make datasets unreadable: what a failed quantum wrote must not feed a later one."""
        self.known.difference_update(datasets)
