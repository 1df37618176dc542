"""The doctor: what a cluster user wants to know before a long job, and what is wrong."""
