"""What leaves Leadline over NATS: results, replies to the lead, and the service that answers with them.

A follower of the events, beside the projector: the event log is the outbox, and this relays from it (the pattern
"transactional outbox"). Nothing here is on a message's way; it may be away for days and lose nothing.
"""
