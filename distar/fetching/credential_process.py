"""The program from which a profile gets its credentials: only its status is told, for what it writes may be secret."""

from __future__ import annotations

import subprocess
from typing import Any


class _Process(subprocess.Popen[bytes]):
    """A child that botocore reads; it takes for the reason of a failure what stands in place of stderr."""

    def communicate(self, input: bytes | None = None, timeout: float | None = None) -> tuple[bytes, bytes]:  # noqa: A002
        output, _ = super().communicate(input, timeout)
        return output, f"its program ended with the status {self.returncode}".encode()


def tell_status_alone(core: Any) -> None:
    """Let a session of botocore tell of a failed `credential_process` nothing but its status."""
    from botocore.credentials import ProcessProvider

    resolver = core.get_component("credential_provider")
    profile = core.get_config_variable("profile") or "default"
    ours = ProcessProvider(profile, lambda: core.full_config, _Process)
    resolver.insert_after(ours.METHOD, ours)
    resolver.remove(ours.METHOD)  # the first of this name: botocore's own
