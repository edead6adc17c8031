"""The pages that describe a service's API work without a connection to other hosts."""

import re


async def test_the_api_page_loads_everything_from_the_service(served) -> None:
    page = await served.client.get("/docs", headers={"Authorization": ""})
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)

    assert page.status_code == 200
    assert len(loaded) == 3
    for path in loaded:
        assert path.startswith("/")
        assert (await served.client.get(path, headers={"Authorization": ""})).status_code == 200
    assert not re.findall(r"https?://", page.text)
    assert (await served.client.get("/redoc")).status_code == 404
