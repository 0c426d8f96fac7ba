"""The binary tensor data extension: tensors as raw bytes after the JSON of a request."""

from server.refusal import Refusal


class Binary:
    """The bytes after the JSON: the binary inputs, in the order in which the JSON lists them."""

    def __init__(self, content: memoryview) -> None:
        self._content = content
        self._at = 0

    def take(self, field: str, size: int) -> memoryview:
        """The next `size` bytes."""
        taken = self._content[self._at : self._at + size]
        if len(taken) != size:
            raise Refusal(400, f"{field}: {size} bytes, and only {len(taken)} are left after the JSON.")
        self._at += size
        return taken

    def refuse_rest(self) -> None:
        """Raises Refusal when bytes are left that no input asked for."""
        rest = len(self._content) - self._at
        if rest:
            raise Refusal(400, f"the body: {rest} bytes are left after the inputs' binary_data_size was taken.")
