"""The pages that mailed links lead to. The token stands behind ``#``, so that no server, proxy or log ever sees it.

Nothing happens by opening a page, as programs that look through mail do: somebody has to press its button.
"""

from typing import NamedTuple

from fastapi import APIRouter, Response
from fastapi.responses import HTMLResponse

router = APIRouter(include_in_schema=False)

_POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} - Forecourt</title>
</head>
<body>
<h1>{title}</h1>
<form id="form" method="post" data-target="{target}" data-field="{field}">
{password}
<p><button>{title}</button></p>
</form>
<p id="said" role="status"></p>
<script src="/mailed-link.js"></script>
</body>
</html>
"""
_TYPED_FIELD = """<p><label>{label}<br>
<input id="password" type="password" autocomplete="{autocomplete}" maxlength="128"></label></p>"""
_SCRIPT = """const form = document.getElementById("form");
const said = document.getElementById("said");
const token = location.hash.slice(1);
history.replaceState(null, "", location.pathname);
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const body = { token };
  const password = document.getElementById("password");
  if (password && password.value) body[form.dataset.field] = password.value;
  const answer = await fetch(form.dataset.target, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  form.hidden = answer.ok;
  if (answer.ok) {
    said.textContent = "Done. You can sign in now.";
    return;
  }
  const problem = await answer.json();
  said.textContent = [problem.detail, ...(problem.errors || []).map((each) => each.detail)].join(" ");
});
"""


class _Page(NamedTuple):
    title: str
    target: str
    field: str = ""
    label: str = ""
    autocomplete: str = "new-password"


def _html(page: _Page) -> HTMLResponse:
    password = _TYPED_FIELD.format(label=page.label, autocomplete=page.autocomplete) if page.field else ""
    content = _PAGE.format(title=page.title, target=page.target, field=page.field, password=password)
    return HTMLResponse(content, headers={"Content-Security-Policy": _POLICY, "Cache-Control": "no-store"})


@router.get("/accept-invitation")
async def read_acceptance_page() -> HTMLResponse:
    """Return the page that accepts an invitation."""
    label = "Choose a password, or enter yours if you have an account"
    return _html(_Page("Accept the invitation", "/v1/invitations/accept", "password", label))


@router.get("/confirm")
async def read_confirmation_page() -> HTMLResponse:
    """Return the page that confirms a sign-up."""
    return _html(_Page("Confirm your account", "/v1/auth/confirm"))


@router.get("/reset-password")
async def read_reset_page() -> HTMLResponse:
    """Return the page that sets a new password."""
    return _html(_Page("Set a new password", "/v1/auth/reset", "new_password", "New password"))


@router.get("/mailed-link.js")
async def read_script() -> Response:
    """Return the script of these pages: their policy allows none inside them."""
    return Response(_SCRIPT, media_type="text/javascript")
