"""A kernel's code and workspaces on each GPU: made once, and shared by the launch plans of all its sizes."""

from __future__ import annotations

import threading
import weakref

from ..cuda import driver
from ..cuda.launch import Program
from ..cuda.memory import Workspaces, quietly
from ..plan import LaunchPlan
from ..store.winner import Winner


class SharedCode:
    """One kernel's module and workspaces on each GPU, shared by its launch plans of all sizes.

    ``winner`` is that of the largest size served: its workspace is large enough for every other.
    """

    def __init__(self, winner: Winner) -> None:
        self._image, self._plan = winner.cubin, winner.plan
        self._lock = threading.Lock()
        self._modules: dict[int, driver.Module] = {}
        self._workspaces: dict[int, Workspaces] = {}

    def program(self, plan: LaunchPlan, device: int) -> tuple[Program, Workspaces]:
        """``plan`` with the code on GPU ``device``, whose context is current, and the workspaces there."""

        def load(image: bytes) -> driver.Module:
            if device not in self._modules:
                self._modules[device] = driver.Module(image)
            return self._modules[device]

        with self._lock, quietly():  # the caller may be capturing
            if device not in self._workspaces:
                made = Workspaces(self._plan.workspace_bytes, self._plan.zeroed_span, device)
                weakref.finalize(self, made.free).atexit = False
                self._workspaces[device] = made
            return Program(self._image, plan, load), self._workspaces[device]
