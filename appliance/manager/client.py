"""The command line's calls to a manager."""

from typing import Any

import httpx

from appliance.errors import ApplianceError

_ANSWER = 340.0  # seconds: a push takes as long as the VM does


class Client:
    """Asks one manager, with one token."""

    def __init__(self, url: str, token: str, ca: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {token}"}
        verify: Any = True
        if ca is not None:
            import ssl

            verify = ssl.create_default_context(cafile=ca)
        self._url = url
        self._client = httpx.Client(
            base_url=url, headers=headers, timeout=_ANSWER, verify=verify, trust_env=False
        )

    def ask(
        self,
        method: str,
        path: str,
        value: object = None,
        *,
        data: bytes | None = None,
        **query: object,
    ) -> Any:
        """The answer. Raises ApplianceError."""
        given = {name: part for name, part in query.items() if part is not None}
        try:
            response = self._client.request(
                method,
                path,
                json=value if data is None else None,
                content=data,
                params={name: _text(part) for name, part in given.items()},
            )
            answer = response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise ApplianceError(
                f"the manager at {self._url} does not answer: {error or type(error).__name__}",
                "--manager (or SYSVM_MANAGER) says where it is",
            ) from error
        if response.status_code >= 400:
            raise _refused(answer)
        return answer


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _refused(problem: Any) -> ApplianceError:
    if not isinstance(problem, dict):
        return ApplianceError("the manager refused it")
    lines = [f"{problem.get('title')}: {problem.get('detail')}"]
    lines += [
        f"  {one.get('path') or '/'}: {one.get('message')}" for one in problem.get("problems", ())
    ]
    return ApplianceError("\n".join(lines), str(problem.get("hint", "")))
