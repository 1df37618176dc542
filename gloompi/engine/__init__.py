"""Messages between ranks: matching, progress on all connections, and waiting."""
