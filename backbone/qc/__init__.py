"""Quality control: metrics that productions measured, the thresholds they are held to, and the alarms that crossings raise.

Reading order: tables, metric, thresholds (YAML), alarms (their life as a table), quality (the public face), cli.
"""

from backbone.qc.alarms import Alarm, AlarmState
from backbone.qc.metric import Metric
from backbone.qc.quality import Quality
from backbone.qc.thresholds import Threshold

__all__ = ["Alarm", "AlarmState", "Metric", "Quality", "Threshold"]
