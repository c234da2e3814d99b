"""Messages between programs: transport (the contract), stored (a database), amqp (RabbitMQ), opened (by address), prompt (what
those who work on a night say to each other).
"""
