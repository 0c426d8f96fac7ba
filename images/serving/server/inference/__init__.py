"""Who runs the model when: the plan of its threads, the queue, batches and parts."""
