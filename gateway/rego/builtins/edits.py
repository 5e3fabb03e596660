"""The tree of edits behind `json.patch`.

OPA applies a patch to a tree of what was changed, over the document as it was. This is that tree (`internal/edittree` of
OPA 1.22), with its results also where they are not those of RFC 6902: once elements of an array were added or removed, a
step into an element that was not touched yet counts in the array as it was.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.rego.builtins import operands
from gateway.rego.builtins.objects import child
from gateway.rego.builtins.registry import BuiltinContext, BuiltinError
from gateway.rego.values import UNDEFINED, Key, RegoSet, Value, equal, key, to_rego, type_name

Path = list[Value]

_GO_TYPES: Final = {"null": "ast.Null", "boolean": "ast.Boolean", "number": "ast.Number", "string": "ast.String"}
_INDEX: Final = re.compile(r"[-+]?[0-9]{1,19}(?:\.0*)?")


def _is_composite(value: Value) -> bool:
    return isinstance(value, (list, dict, RegoSet))


def _index(length: int, step: Value) -> int:
    """A step as an index; `-` is the one after the last."""
    if type(step) is str:
        if step == "-":
            return length
        if _INDEX.fullmatch(step) is None or len(step.lstrip("+-")) > 19:
            raise BuiltinError("invalid string for indexing")
        at = int(step.partition(".")[0])
        if not operands.INT64_MIN <= at <= operands.INT64_MAX:
            raise BuiltinError("invalid string for indexing")
        if step != "0" and step.startswith("0"):
            raise BuiltinError("leading zeros are not allowed in JSON paths")
        return at
    if not operands.is_number(step):
        raise BuiltinError("invalid type for indexing")
    number = operands.as_int64(step)
    if number is None:
        raise BuiltinError("invalid number type for indexing")
    return number


def _not_composite(value: Value, where: str = "") -> BuiltinError:
    return BuiltinError(
        f"expected composite type{where}, found value: {to_rego(value)} (type: {_GO_TYPES[type_name(value)]})"
    )


class EditTree:
    """A value and the edits below it.

    Of an array, `inserted` says for each index whether its value is among the children or is the next one that is left
    of the value itself, and `eliminated` which of the value's own elements are gone.
    """

    __slots__ = ("children", "ctx", "eliminated", "inserted", "keys", "scalars", "value")

    def __init__(self, ctx: BuiltinContext, value: Value) -> None:
        self.ctx = ctx
        self.keys: dict[Key, Value] = {}
        self.scalars: dict[Key, Value] = {}
        """Scalar children by key (by index in arrays); UNDEFINED where one was deleted."""
        self.children: dict[Key, EditTree | None] = {}
        """Composite children; None where one was deleted."""
        self.reset(value)

    def reset(self, value: Value) -> None:
        """Makes this the tree of another value, without edits."""
        self.value = value
        self.keys.clear()
        self.scalars.clear()
        self.children.clear()
        length = len(value) if type(value) is list else 0
        self.eliminated = [False] * length
        self.inserted = [False] * length

    def _drop(self, at: Key) -> None:
        self.scalars.pop(at, None)
        self.children.pop(at, None)

    def _put(self, at: Key, value: Value) -> EditTree:
        node = EditTree(self.ctx, value)
        if _is_composite(value):
            self.children[at] = node
        else:
            self.scalars[at] = value
        return node

    def insert(self, step: Value, value: Value) -> EditTree:
        """Puts a value under a step; returns its tree."""
        self.ctx.charge(1 + len(self.inserted) // 32)
        if self.value is UNDEFINED:
            raise BuiltinError("deleted node encountered during insert operation")
        if type(self.value) is dict:
            return self._insert_key(step, value)
        if type(self.value) is RegoSet:
            if not equal(step, value):
                raise BuiltinError(f"set key {to_rego(step)} does not equal value to be inserted {to_rego(value)}")
            if _is_composite(step):
                self.reset(self.render())
            return self._insert_key(step, value)
        if type(self.value) is list:
            at = _index(len(self.inserted), step)
            if not 0 <= at <= len(self.inserted):
                raise BuiltinError("index for array insertion out of bounds")
            self._shift(at, 1)
            self.inserted.insert(at, True)
            return self._put(at, value)
        raise _not_composite(self.value)

    def _insert_key(self, step: Value, value: Value) -> EditTree:
        at = key(step)
        self._drop(at)
        self.keys[at] = step
        return self._put(at, value)

    def _shift(self, start: int, by: int) -> None:
        self.scalars = {at + by if at >= start else at: value for at, value in self.scalars.items()}
        self.children = {at + by if at >= start else at: node for at, node in self.children.items()}

    def delete(self, step: Value) -> None:
        """Takes out what is under a step."""
        self.ctx.charge(1 + len(self.inserted) // 32)
        if self.value is UNDEFINED:
            raise BuiltinError("deleted node encountered during delete operation")
        at = key(step)
        if type(self.value) is dict:
            if at in self.keys:
                self._delete_again(at, step)
            else:
                self._delete_own(at, step)
        elif type(self.value) is RegoSet:
            if _is_composite(step):
                self.reset(self.render())
            elif at in self.scalars:
                self._delete_again(at, step)
                return
            self._delete_own(at, step)
        elif type(self.value) is list:
            self._delete_index(_index(len(self.inserted), step))
        else:
            raise _not_composite(self.value)

    def _delete_again(self, at: Key, step: Value) -> None:
        if at in self.scalars:
            if self.scalars[at] is UNDEFINED:
                raise BuiltinError(f"cannot delete the already deleted scalar node for key {to_rego(step)}")
            self.scalars[at] = UNDEFINED
        else:
            if self.children[at] is None:
                raise BuiltinError(f"cannot delete the already deleted composite node for key {to_rego(step)}")
            self.children[at] = None

    def _delete_own(self, at: Key, step: Value) -> None:
        found = child(self.value, step)
        if found is UNDEFINED:
            raise BuiltinError(f"cannot delete child key {to_rego(step)} that does not exist")
        self.keys[at] = step
        if _is_composite(found):
            self.children[at] = None
        else:
            self.scalars[at] = UNDEFINED

    def _delete_index(self, at: int) -> None:
        if not 0 <= at < len(self.inserted):
            raise BuiltinError("index for array delete out of bounds")
        self._drop(at)
        self._shift(at + 1, -1)
        if not self.inserted[at]:
            nth = self.inserted[:at].count(False)
            left = [place for place, gone in enumerate(self.eliminated) if not gone]
            self.eliminated[left[nth]] = True
        del self.inserted[at]

    def unfold(self, path: Path) -> EditTree:
        """The tree at a path that exists."""
        node = self
        for step in path:
            node = node._child(step)
        return node

    def _child(self, step: Value) -> EditTree:
        self.ctx.charge(1 + len(self.inserted) // 32)
        if self.value is UNDEFINED:
            raise BuiltinError("nil value encountered where composite value was expected")
        if type(self.value) is list:
            return self._element(_index(len(self.inserted), step))
        if type(self.value) is not dict and type(self.value) is not RegoSet:
            raise _not_composite(self.value, f" for path {to_rego(step)}")
        at = key(step)
        if type(self.value) is RegoSet and _is_composite(step):
            self.reset(self.render())
        elif at in self.scalars:
            if self.scalars[at] is UNDEFINED:
                raise BuiltinError(f"cannot unfold the already deleted scalar node for key {to_rego(step)}")
            return EditTree(self.ctx, self.scalars[at])
        elif type(self.value) is dict and at in self.children:
            node = self.children[at]
            if node is None:
                raise BuiltinError(f"cannot unfold the already deleted composite node for key {to_rego(step)}")
            return node
        found = child(self.value, step)
        if found is not UNDEFINED:
            return self.insert(step, found)
        if type(self.value) is dict:
            raise BuiltinError(f"path {to_rego(step)} does not exist in object term {to_rego(self.value)}")
        shown = step if type(step) is str else to_rego(step)
        raise BuiltinError(f"path {shown} does not exist in set term {to_rego(self.value)}")

    def _element(self, at: int) -> EditTree:
        if at in self.scalars:
            return EditTree(self.ctx, self.scalars[at])
        node = self.children.get(at)
        if node is not None:
            return node
        if not 0 <= at < len(self.value):
            raise BuiltinError(f"path {at} does not exist in array term {to_rego(self.value)}")
        # Here OPA looks into the array as it was, and so does this.
        found = self.value[at]
        self.delete(at)
        return self.insert(at, found)

    def render(self) -> Value:
        """The value with its edits."""
        if self.value is UNDEFINED:
            return UNDEFINED
        if type(self.value) is list:
            self.ctx.charge(1 + len(self.inserted) // 32)
            own = (item for item, gone in zip(self.value, self.eliminated, strict=True) if not gone)
            return [self._rendered(at) if put else next(own) for at, put in enumerate(self.inserted)]
        if not self.keys:
            return self.value
        self.ctx.charge(1 + len(self.value) // 32)
        if type(self.value) is dict:
            out = {at: item for at, item in self.value.items() if at not in self.keys}
            for at in self.keys:
                item = self._rendered(at)
                if item is not UNDEFINED:
                    out[at] = item
            return out
        members = {at: item for at, item in self.value.members.items() if at not in self.keys}
        for at in self.keys:
            item = self._rendered(at)
            if item is not UNDEFINED:
                members[key(item)] = item
        return RegoSet.of(members)

    def _rendered(self, at: Key) -> Value:
        if at in self.scalars:
            return self.scalars[at]
        node = self.children[at]
        return UNDEFINED if node is None else node.render()

    # By paths

    def insert_at(self, path: Path, value: Value) -> None:
        """Puts a value at a path; at the root, in place of everything."""
        if value is UNDEFINED:
            raise BuiltinError("cannot insert nil value into EditTree")
        if path:
            self.unfold(path[:-1]).insert(path[-1], value)
        else:
            self.reset(value)

    def delete_at(self, path: Path) -> None:
        """Takes out what is at a path."""
        if path:
            self.unfold(path[:-1]).delete(path[-1])
        elif self.value is UNDEFINED:
            raise BuiltinError("deleted node encountered during delete operation")
        else:
            self.reset(UNDEFINED)

    def render_at(self, path: Path) -> Value:
        """The value at a path."""
        return self.unfold(path).render()
