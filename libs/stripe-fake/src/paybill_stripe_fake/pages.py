"""Routes of the customer pages; they need no key, since their paths contain unguessable ids."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from paybill_stripe_fake import checkout, page, portal
from paybill_stripe_fake.account import Account
from paybill_stripe_fake.bodies import parameters
from paybill_stripe_fake.errors import InvalidRequestError
from paybill_stripe_fake.forms import Params

Answer: TypeAlias = Callable[[Request, Callable[..., Any], str], Awaitable[Response]]

_PAGE_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def routes(account: Account, answer: Answer) -> list[Route]:
    """Returns the routes of the pages; `answer` handles requests of programs in JSON."""
    pages = _Pages(account, answer)
    return [
        Route("/fake/checkout/{id}", pages.checkout_page),
        Route("/fake/checkout/{id}/pay", pages.pay_checkout, methods=["POST"]),
        Route("/fake/portal/{secret}", pages.portal_page),
        Route("/fake/portal/{secret}", pages.click_portal, methods=["POST"]),
    ]


class _Pages:
    def __init__(self, account: Account, answer: Answer) -> None:
        self._account = account
        self._answer = answer

    async def checkout_page(self, request: Request) -> Response:
        """Returns the page of a session."""
        return self._page(request.path_params["id"])

    async def pay_checkout(self, request: Request) -> Response:
        """Pays, from the page's form or as JSON."""
        session_id = request.path_params["id"]
        if not _of_browser(request):
            return await self._answer(request, checkout.pay, session_id)
        tree = await parameters(request, json_too=False)
        try:
            with self._account.work():
                session = checkout.pay(self._account, Params(tree), session_id)
        except InvalidRequestError:
            # Pressed twice, or too late: the page shows the current state.
            return self._page(session_id)
        if session["status"] == "complete":
            return RedirectResponse(page.return_url(session), status_code=303, headers=_PAGE_HEADERS)
        return self._page(session_id, declined=True)

    async def portal_page(self, request: Request) -> Response:
        """Returns the page of a portal session."""
        return self._portal(request.path_params["secret"])

    async def click_portal(self, request: Request) -> Response:
        """Applies a customer's click, from the page's form or as JSON."""
        secret = request.path_params["secret"]
        if not _of_browser(request):
            return await self._answer(request, portal.click, secret)
        tree = await parameters(request, json_too=False)
        with self._account.work():
            portal.click(self._account, Params(tree), secret)
        return RedirectResponse(request.url.path, status_code=303, headers=_PAGE_HEADERS)

    def _portal(self, secret: str) -> Response:
        session, configuration, subscriptions = portal.page_content(self._account, secret)
        named = [
            (one, [self._account.get("product", item["price"]["product"])["name"] for item in one["items"]["data"]])
            for one in subscriptions
        ]
        cancellable = configuration["features"]["subscription_cancel"]["enabled"]
        html = page.portal_page(secret, session, named, cancellable=cancellable)
        return HTMLResponse(html, headers=_PAGE_HEADERS)

    def _page(self, session_id: str, *, declined: bool = False) -> Response:
        session = self._account.get("checkout.session", session_id)
        lines = checkout.line_items(self._account, session)["data"]
        html = page.checkout_page(session, lines, declined=declined)
        return HTMLResponse(html, status_code=402 if declined else 200, headers=_PAGE_HEADERS)


def _of_browser(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")
