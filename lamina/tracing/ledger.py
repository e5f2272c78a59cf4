"""Which tensor of a trace is which, whose memory it lies in, and how long that lives."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch

from lamina.tracing import private
from lamina.tracing.survey import Owner, Survey, dtype_name
from lamina.tracing.values import META, assume, is_assumed
from lamina.workload import Lifetime, Role, Tensor, Weight, replace


@dataclass(slots=True, eq=False)
class Storage:
    """An allocation of the trace: the layer that made it, and the last one in whose time a tensor of it was alive."""

    number: int
    bytes: int
    born: int
    address: int | None = None  # None: there is no tensor of it, in the forward pass that is traced
    freed: int | None = None  # None: not yet
    alive: int = 0  # tensors
    outside: bool = False  # it was there before the trace: an input, a constant


class Ledger:
    """Every tensor that a trace has met. A tensor is known by its `id`, which is its own as long as it lives; the module's
    are held, the others' deaths are noted, for they end a storage's life as they do in eager execution."""

    def __init__(self, survey: Survey, outside: Callable[[], Iterable[torch.Tensor]]):
        """`outside` gives the tensors that the module and the call's arguments refer to without naming them."""
        self.layer = -1  # the one that comes next; -1 before the call
        self.tensors: list[Tensor] = []
        self.storages: list[Storage] = []
        self.nowhere: list[tuple[int, tuple[int, ...]]] = []  # layer and shape of what no operation of the trace has made
        self.known: dict[int, Tensor | Owner] = dict(survey.tensors)  # by id(tensor)
        self._owners: dict[int, Owner] = dict(survey.storages)  # by address
        self._alive: dict[int, Storage] = {}  # by address
        self._deaths: dict[int, weakref.ref[torch.Tensor]] = {}  # by id(tensor)
        self._stand_ins: dict[int, torch.Tensor] = {}  # on the meta device, for the module's own tensors, by their id
        self._copies: dict[int, torch.UntypedStorage] = {}  # of storages from outside that the forward writes to, by address
        self._originals: dict[int, int] = {}  # a copy's address: that of what it is a copy of
        self._assumed: set[int] = set()  # addresses of those whose copies have made up values
        self._overwritten: set[int] = set()  # addresses of real tensors whose new values are not known
        self._held: list[torch.Tensor] = list(survey.held)
        self._outside = outside
        self._constants: set[int] | None = None  # their addresses, once they have been looked for

    # ---- new tensors ------------------------------------------------------------------------------------------------

    def enter(self, tensor: torch.Tensor, requires_grad: bool = False) -> Tensor:
        """An input of the network, or a constant from outside, which stays alive."""
        self._held.append(tensor)
        found = self.register(tensor, requires_grad, "input")
        self._storage(tensor).outside = True
        return found

    def register(self, tensor: torch.Tensor, requires_grad: bool, role: Role = "activation") -> Tensor:
        """Number a tensor, or its new content after an operation in place; a view joins its storage."""
        storage = self._storage(tensor)
        shape, dtype = tuple(tensor.shape), dtype_name(tensor.dtype)
        found = Tensor(len(self.tensors), shape, dtype, storage.number, storage.bytes, role, requires_grad)
        if requires_grad and storage.alive > 1 and id(tensor) in self.known:
            self._need_gradients(storage)
        self._know(tensor, found, storage)
        self.tensors.append(found)
        return found

    def _need_gradients(self, storage: Storage) -> None:
        """Something that needs a gradient is written through one tensor of a storage: all that lie there need one."""
        for key, found in self.known.items():
            if isinstance(found, Tensor) and found.storage == storage.number and not found.requires_grad:
                self.known[key] = self.tensors[found.id] = replace(found, requires_grad=True)

    def set_requires_grad(self, tensor: torch.Tensor, requires_grad: bool) -> None:
        """The forward says so of a tensor of its own."""
        found = self.known.get(id(tensor))
        if isinstance(found, Tensor) and (tensor.is_floating_point() or tensor.is_complex()):
            self.known[id(tensor)] = self.tensors[found.id] = replace(found, requires_grad=requires_grad)

    def _know(self, tensor: torch.Tensor, record: Tensor, storage: Storage) -> None:
        key = id(tensor)
        if not isinstance(self.known.get(key), Tensor):
            storage.alive += 1
            self._deaths[key] = weakref.ref(tensor, partial(self._died, key, storage))
        self.known[key] = record

    def alias(self, tensor: torch.Tensor, original: torch.Tensor) -> None:
        """A tensor that is another one, by another name."""
        found = self.known.get(id(original))
        if tensor is not original and isinstance(found, Tensor):
            self._know(tensor, found, self._storage(original))

    def _storage(self, tensor: torch.Tensor) -> Storage:
        address = self.address(tensor)
        storage = self._alive.get(address)
        if storage is None:
            bytes = 0 if address in self._owners else private.memory(tensor)  # part of a weight: none of its own
            storage = self._alive[address] = Storage(len(self.storages), bytes, self.layer, address)
            self.storages.append(storage)
        return storage

    def _died(self, key: int, storage: Storage, _: weakref.ref[torch.Tensor]) -> None:
        del self._deaths[key], self.known[key]
        storage.alive -= 1
        if not storage.alive:
            storage.freed = max(self.layer - 1, storage.born)
            if storage.address is not None and self._alive.get(storage.address) is storage:
                del self._alive[storage.address]

    def keep(self, saved: Iterable[torch.Tensor | int]) -> tuple[int, ...]:
        """The storages that the next layer keeps for the backward pass: those of tensors, and new ones, of so many bytes, for
        masks, indices and statistics, which a forward pass alone never has."""
        kept: dict[int, None] = {}
        for item in saved:
            if isinstance(item, torch.Tensor):
                found = self.known.get(id(item))
                if isinstance(found, Tensor):
                    kept[found.storage] = None
            elif item:
                kept[len(self.storages)] = None
                self.storages.append(Storage(len(self.storages), item, self.layer, freed=self.layer - 1))
        return tuple(kept)

    def close(self) -> None:
        """Note no more deaths: a weak reference's callback and the ledger hold each other."""
        self._deaths.clear()

    # ---- questions --------------------------------------------------------------------------------------------------

    def address(self, tensor: torch.Tensor) -> int:
        """Which allocation a tensor lies in; a copy on write is its original."""
        address = private.address(tensor)
        return self._originals.get(address, address)

    def identify(self, tensor: torch.Tensor) -> Tensor | Owner:
        """A tensor's record, or whose of the module it is. One from nowhere (a constant in a closure) gets a record here."""
        found = self.known.get(id(tensor))
        if found is None:
            found = self._owners.get(self.address(tensor))
        if found is not None:
            return found
        if self.address(tensor) in self._alive:
            return self.register(tensor, False, "input")
        self._note_nowhere(tensor)
        return self.enter(tensor)

    def _note_nowhere(self, tensor: torch.Tensor) -> None:
        if tensor.is_meta and not self._is_constant(tensor):
            self.nowhere.append((self.layer, tuple(tensor.shape)))

    def _is_constant(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor that no operation of the trace has made was there before."""
        if self._constants is None:
            found = list(self._outside())
            self._held += found
            self._constants = set(map(private.address, found))
        return private.address(tensor) in self._constants

    def enter_constant(self, tensor: torch.Tensor) -> None:
        """One that torch has made of numbers within an operation."""
        if self.find(tensor) is None and not self.is_allocated(tensor):
            self.enter(tensor)

    def note_results(self, results: Iterable[torch.Tensor]) -> None:
        """The network's outputs: those that come from nowhere are noted."""
        for tensor in results:
            if self.find(tensor) is None and not self.is_allocated(tensor):
                self._note_nowhere(tensor)

    def is_traced(self, tensor: torch.Tensor) -> bool:
        """Whether it is a stand-in for a result of the trace, or for an input."""
        return tensor.is_meta and isinstance(self.known.get(id(tensor)), Tensor)

    def find(self, tensor: torch.Tensor) -> Tensor | Owner | None:
        """The same, or None for one that is not known."""
        found = self.known.get(id(tensor))
        return self._owners.get(self.address(tensor)) if found is None else found

    def owner(self, tensor: torch.Tensor) -> Owner | None:
        """The module's weight or buffer that a tensor is or is a view of."""
        found = self.find(tensor)
        return None if isinstance(found, Tensor) else found

    def is_own(self, tensor: torch.Tensor) -> bool:
        """Whether it is one of the module's weights or buffers, or a view of one."""
        return self.owner(tensor) is not None

    def is_weight(self, *tensors: torch.Tensor) -> bool:
        """Whether one of them lies in the memory of one of the module's weights."""
        return any(isinstance(self._owners.get(self.address(x)), Weight) for x in tensors)

    def is_allocated(self, tensor: torch.Tensor) -> bool:
        """Whether it lies in memory that the module or the trace has already."""
        address = self.address(tensor)
        return address in self._alive or address in self._owners

    def is_differentiable(self, tensor: torch.Tensor | int) -> bool:
        """Whether a gradient flows to it; for the bytes of an intermediate result that is taken for granted."""
        if isinstance(tensor, int):
            return True
        found = self.find(tensor)
        return found.requires_grad if isinstance(found, Tensor) else isinstance(found, Weight) and found.trainable

    def factors(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor | int, ...]:
        """What a product keeps for the backward pass: each factor, if a gradient flows to the other one."""
        return a if self.is_differentiable(b) else 0, b if self.is_differentiable(a) else 0

    # ---- stand-ins --------------------------------------------------------------------------------------------------

    def meta(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor, or a stand-in on the meta device. That of a weight or a buffer is kept, and known as such."""
        if tensor.is_meta:
            return tensor
        found = self._stand_ins.get(id(tensor))
        if found is None:
            found = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=META)
            owner = self.known.get(id(tensor))
            if owner is not None and not isinstance(owner, Tensor):
                self._stand_ins[id(tensor)] = found
                self.known[id(found)] = owner
                self._owners[private.address(found)] = owner
        return found

    def plain(self, tensor: torch.Tensor) -> torch.Tensor:
        """The same for torch's own backward pass, which compares devices: the stand-in is known as the tensor."""
        if private.is_wrapped(tensor) or tensor.is_meta:
            return tensor
        self.identify(tensor)
        found = self.meta(tensor)
        self.alias(found, tensor)
        return found

    # ---- copies on write --------------------------------------------------------------------------------------------

    def is_outside(self, tensor: torch.Tensor) -> bool:
        """Whether it lies in memory that the trace has not made: the module's, an input's, a constant's."""
        address = private.address(tensor)
        if address in self._originals:
            return False
        storage = self._alive.get(address)
        return address in self._owners or storage is None or storage.outside

    def copy(self, tensor: torch.Tensor) -> None:
        """Let the forward write to a copy of the tensor's storage, which is what all of its tensors are from here on."""
        address = private.address(tensor)
        if address not in self._copies:
            copy = self._copies[address] = tensor.untyped_storage().clone()
            self._originals[copy._cdata] = address
            self._held.append(tensor)

    def note_written(self, tensor: torch.Tensor, moved: torch.Tensor) -> None:
        """An operator has written to `moved` in place of a tensor."""
        if moved.is_meta and not tensor.is_meta and not isinstance(self.owner(tensor), Weight):
            self.overwrite(tensor)
        elif moved is not tensor and is_assumed(moved):
            self._assumed.add(self.address(tensor))

    def overwrite(self, tensor: torch.Tensor) -> None:
        """The forward has written into a real tensor, by its stand-in: its values are no longer known."""
        self._overwritten.add(self.address(tensor))
        self._held.append(tensor)

    def is_overwritten(self, tensor: torch.Tensor) -> bool:
        return bool(self._overwritten) and self.address(tensor) in self._overwritten

    def current(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor with the values that the forward has left in it; on the meta device if nobody knows them."""
        if self.is_overwritten(tensor):
            return self.meta(tensor)
        copy = self._copies.get(private.address(tensor)) if self._copies else None
        if copy is None:
            return tensor
        empty = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        found = empty.set_(copy, tensor.storage_offset(), tensor.shape, tensor.stride())
        if private.address(tensor) in self._assumed:
            assume(found)
        return found

    # ---- the record -------------------------------------------------------------------------------------------------

    def records(self, results: Iterable[torch.Tensor]) -> list[Tensor]:
        """The tensors by their numbers; `results` are the network's outputs."""
        records = list(self.tensors)
        for found in map(self.known.get, map(id, results)):
            if isinstance(found, Tensor):
                records[found.id] = replace(found, role="output")
        return records

    def places(self, results: Iterable[torch.Tensor]) -> tuple[list[int], set[int]]:
        """Of tensors their numbers, and the storages of those that have none of their own."""
        numbers, storages = list[int](), set[int]()
        for tensor in results:
            found, storage = self.known.get(id(tensor)), self._alive.get(self.address(tensor))
            if isinstance(found, Tensor):
                numbers.append(found.id)
            if storage is not None:
                storages.add(storage.number)
        return numbers, storages

    def lifetimes(self) -> tuple[Lifetime, ...]:
        """Those of the storages; what is still alive lives until the last layer."""
        last = self.layer - 1
        return tuple([Lifetime(s.number, s.bytes, s.born, last if s.freed is None else s.freed) for s in self.storages])
