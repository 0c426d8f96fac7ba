"""The messages of the gRPC services, made from the descriptors that protoc writes while the image is built."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

FILE = Path(__file__).parents[1] / "protocols.binpb"


@dataclass(frozen=True, slots=True)
class Messages:
    """Classes of messages by their full names; a pool of its own keeps them apart from those of other packages."""

    pool: DescriptorPool
    files: tuple[str, ...]

    def get(self, name: str) -> Any:
        """The class of a message; its instances have the fields that the .proto file says."""
        return GetMessageClass(self.pool.FindMessageTypeByName(name))

    @property
    def services(self) -> tuple[str, ...]:
        """The full names of all services, sorted."""
        described = (self.pool.FindFileByName(name) for name in self.files)
        return tuple(sorted(each.full_name for file in described for each in file.services_by_name.values()))


def load(path: Path = FILE) -> Messages:
    """The messages of a FileDescriptorSet."""
    pool = DescriptorPool()
    files = FileDescriptorSet.FromString(path.read_bytes()).file
    for file in files:
        pool.Add(file)
    return Messages(pool, tuple(file.name for file in files))
