"""The Open Inference Protocol: its requests and answers, whichever way they come and go."""
