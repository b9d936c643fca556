"""Every error gpu_tune raises on purpose.

One root, :class:`GpuTuneError`. A message names its subject, the value, the rule it breaks and the remedy,
so that it can be shown to a user as it is. All errors survive pickling (they cross process boundaries).
"""

from __future__ import annotations


class GpuTuneError(Exception):
    """Root of all errors of gpu_tune; ``str(error)`` is one message fit to show to a user."""


class InvalidInput(GpuTuneError, ValueError):
    """A value from outside (argument, array, file name, option) breaks a stated rule; ``...`` is no value to show."""

    def __init__(self, subject: str, value: object = ..., rule: str = "", remedy: str = "") -> None:
        super().__init__(subject, value, rule, remedy)
        self.subject, self.value, self.rule, self.remedy = subject, value, rule, remedy

    def __str__(self) -> str:
        text = self.subject if self.value is ... else f"{self.subject}: {_short(self.value)}"
        if self.rule:
            text += f": {self.rule}" if self.value is ... else f" {self.rule}"
        return f"{text}; {self.remedy}" if self.remedy else text


def require(valid: object, subject: str, value: object, rule: str, remedy: str = "") -> None:
    """Raise :class:`InvalidInput` unless ``valid``."""
    if not valid:
        raise InvalidInput(subject, value, rule, remedy)


class Unsupported(GpuTuneError):
    """No template supports the workload on the device; the message lists what is supported."""


class InvalidConfig(GpuTuneError):
    """A config has an unknown or missing knob, a value outside the knob's list, or breaks a constraint."""


class TemplateError(GpuTuneError):
    """A template and its declaration disagree (unknown variable, missing part, bad plan)."""


class CompileError(GpuTuneError):
    """NVRTC or ptxas refused a source; ``log`` holds the compiler's words."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message, log)
        self.message, self.log = message, log

    def __str__(self) -> str:
        return f"{self.message}\n{self.log}" if self.log else self.message


class CompilerMissing(GpuTuneError):
    """A compiler (NVRTC, or a C++ compiler for the emulator) is not on this machine."""


class EmulationError(GpuTuneError):
    """The emulator cannot run a kernel at all (unknown instruction, malformed PTX or plan)."""


class MeasureError(GpuTuneError):
    """The measuring machinery itself failed (no device, a worker that cannot be started)."""


class EnvironmentFault(MeasureError):
    """The machine, not the config, kept a trial from its end: it is neither told to the search nor recorded."""


class StoreError(GpuTuneError):
    """A store or records folder cannot be used (not writable, owned by others, wrong version)."""


class CorruptData(GpuTuneError):
    """A file that should hold records, a plan, a winner or a recorded space is damaged or hostile."""


class NotTuned(GpuTuneError):
    """``load`` found no tuned winner although one was demanded (``strict``)."""


class WrongResult(GpuTuneError):
    """A kernel's output differs from the reference by more than its tolerance."""


def _short(value: object, limit: int = 120) -> str:
    text = value if isinstance(value, str) else repr(value)
    text = f"{text!r}" if isinstance(value, str) else text
    return text if len(text) <= limit else text[: limit - 3] + "..."


class Unavailable(Exception):
    """A library is not installed or cannot compute the workload; the text says which."""
