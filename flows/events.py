"""The project's own events, and the Prefect server that hears of them."""

from __future__ import annotations

from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL

from distar.errors import ParameterError

PROMPTSET_PUBLISHED = "distar.promptset.published"
REWARD_REGRESSED = "distar.reward.regressed"


def check_server() -> None:
    """Look whether there is a server to talk to: Prefect would start a temporary one, which nobody else hears.

    Raises:
        ParameterError: none is named, or none answers.
    """
    url = PREFECT_API_URL.value()
    if not url:
        raise ParameterError(
            "PREFECT_API_URL is not set; start a server (`make server`, or `prefect server start`) and name it: "
            "PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    with get_client(sync_client=True) as client:
        if error := client.api_healthcheck():
            raise ParameterError(f"PREFECT_API_URL is {url}, where no Prefect server answers: {error!r}")
