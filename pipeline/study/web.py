"""The web application of the study. FastAPI and uvicorn are imported only here.

No response names a method, a run or a file: addresses consist of the volunteer's own step numbers and letters.
"""

import hashlib
import hmac
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import uvicorn
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.trustedhost import TrustedHostMiddleware

from pipeline.store.run_folder import Store
from pipeline.study.database import Ballot, Database, Voter
from pipeline.study.plan import DATABASE, LETTERS, MEANINGS, QUESTIONS, StudyPlan

HERE = Path(__file__).parent
COOKIE, COOKIE_SECONDS = "invitation", 90 * 86_400
MOST_BYTES = 16 * 1024  # limit of a form, which has less than 1 KiB
STATIC = {"study.css": "text/css", "study.js": "text/javascript"}
NO_PAGE = "There is no such page."
OLD = "Thu, 01 Jan 1970 00:00:00 GMT"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; media-src 'self'; "
    "connect-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # no-referrer would make the Origin of our own forms null
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Robots-Tag": "noindex",
    "Cache-Control": "no-store",
}

PAGES = Environment(loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined)


class Session(NamedTuple):
    """The volunteer of a request, identified by the invitation in the cookie."""

    voter: Voter
    token: str

    @property
    def csrf(self) -> str:
        """A secret that only our own forms hold."""
        return hashlib.sha256(f"form:{self.token}".encode()).hexdigest()


class VotingStep(NamedTuple):
    """The `number`-th ranking of a volunteer, from 1."""

    number: int
    group: int
    question: int
    competitors: list[int]

    @property
    def letters(self) -> str:
        return LETTERS[: len(self.competitors)]


@dataclass(frozen=True)
class Website:
    """What all requests share, in `app.state.website`. `is_secure`: the cookie needs https."""

    store: Store
    plan: StudyPlan
    database: Database
    is_secure: bool

    def next_step(self, voter: Voter) -> int | None:
        """The number of the first ranking that the volunteer has not answered."""
        answered = self.database.answered(voter.id)
        steps = (step_of(self.plan, voter, number) for number in range(1, self.plan.steps + 1))
        return next((step.number for step in steps if (step.group, step.question) not in answered), None)


routes = APIRouter()


def app(store: Store, plan: StudyPlan, hosts: list[str], *, is_secure: bool = False) -> FastAPI:
    """The application. It answers for `hosts` only, against DNS rebinding."""
    website = Website(store, plan, Database(store.root / DATABASE), is_secure)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        website.database.close()

    handlers: dict[Any, Any] = {AnyHTTPException: refused, RequestValidationError: unreadable}
    web = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, lifespan=lifespan, exception_handlers=handlers)
    web.state.website = website
    web.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)
    web.add_middleware(BaseHTTPMiddleware, dispatch=with_headers)
    web.include_router(routes)
    return web


async def with_headers(request: Request, call_next: RequestResponseEndpoint) -> Response:
    response = await call_next(request)
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    return response


def page(template: str, status: int = 200, **values: Any) -> HTMLResponse:
    return HTMLResponse(PAGES.get_template(template).render(**values), status)


def message(title: str, text: str, status: int = 200) -> HTMLResponse:
    return page("message.html", status, title=title, text=text)


def refused(_: Request, error: AnyHTTPException) -> Response:
    ours = isinstance(error, HTTPException)
    return message("Sorry", str(error.detail) if ours else NO_PAGE, error.status_code)


def unreadable(_: Request, __: Exception) -> Response:
    return message("Sorry", NO_PAGE, 404)


async def website_of(request: Request) -> Website:
    return request.app.state.website


Site = Annotated[Website, Depends(website_of)]


def session(request: Request, site: Site) -> Session:
    token = request.cookies.get(COOKIE, "")
    voter = site.database.voter(token) if token else None
    if voter is None:
        raise HTTPException(403, "Please open the link that you received.")
    return Session(voter, token)


Visitor = Annotated[Session, Depends(session)]


def checked_step(number: int, visitor: Visitor, site: Site) -> VotingStep:
    if not 1 <= number <= site.plan.steps:
        raise HTTPException(404, NO_PAGE)
    return step_of(site.plan, visitor.voter, number)


async def form(request: Request, visitor: Visitor) -> dict[str, str]:
    """The fields of a form sent by our own page."""
    origin = request.headers.get("origin")
    try:
        fields = parse_qs((await _body(request)).decode(), max_num_fields=64)
    except ValueError as error:
        raise HTTPException(400, "This is not a form.") from error
    sent = fields.get("csrf", [""])[0]
    is_foreign = origin is not None and urlsplit(origin).netloc != request.headers.get("host")
    if is_foreign or not hmac.compare_digest(sent.encode(), visitor.csrf.encode()):
        raise HTTPException(403, "This form was not sent from our page. Please go back and try again.")
    return {key: values[0] for key, values in fields.items()}


Where = Annotated[VotingStep, Depends(checked_step)]
Form = Annotated[dict[str, str], Depends(form)]


@routes.get("/i/{token}")
def enter(token: str, site: Site) -> Response:
    if site.database.voter(token) is None:
        raise HTTPException(404, "This link is not an invitation. Please copy the complete link that you received.")
    response = RedirectResponse("/", 303)
    response.set_cookie(COOKIE, token, COOKIE_SECONDS, httponly=True, samesite="lax", secure=site.is_secure)
    return response


@routes.get("/")
def welcome(visitor: Visitor, site: Site) -> Response:
    number = site.next_step(visitor.voter)
    if number is None:
        return message("Thank you!", "You have answered everything. You may close this page.")
    return page("welcome.html", plan=site.plan, number=number, questions=QUESTIONS)


@routes.get("/step/{number}")
def show(step: Where, visitor: Visitor, site: Site) -> Response:
    number = site.next_step(visitor.voter)
    if step.number != number:  # already answered, or not yet reached
        return _redirect(number)
    return ranking(site, step, visitor)


@routes.post("/step/{number}")
def submit(step: Where, visitor: Visitor, fields: Form, site: Site) -> Response:
    ranks = ranks_of(step, fields)
    if ranks is None:
        error = f"Please give each rank from 1 to {len(step.competitors)} once."
        return ranking(site, step, visitor, fields, error)
    if not site.database.cast(Ballot(visitor.voter.id, step.group, step.question, ranks)):
        text = "You have already answered this question, perhaps in another window. Your first answer counts."
        return message("Already answered", text, 409)
    return _redirect(site.next_step(visitor.voter))


@routes.post("/step/{number}/draft")
def draft(step: Where, visitor: Visitor, fields: Form, site: Site) -> Response:
    ranks = ranks_of(step, fields)
    if ranks is None:
        raise HTTPException(422, "This is not a ranking.")
    site.database.save_draft(Ballot(visitor.voter.id, step.group, step.question, ranks))
    return Response(status_code=204)


@routes.get("/clip/{group}/{letter}.mp4")
def clip(group: int, letter: str, visitor: Visitor, site: Site) -> Response:
    plan = site.plan
    if not 1 <= group <= len(plan.prompts) or letter not in tuple(LETTERS[: len(plan.competitors)]):
        raise HTTPException(404, NO_PAGE)
    real_group, competitors = visitor.voter.shown[group - 1]
    path = plan.clip(site.store, real_group, competitors[LETTERS.index(letter)])
    tag = hmac.new(visitor.token.encode(), f"{group}{letter}".encode(), "sha256").hexdigest()[:16]
    # The file's own date and tag are equal for all volunteers, who could compare them to identify methods.
    headers = {"ETag": f'"{tag}"', "Last-Modified": OLD, "Cache-Control": "private, no-cache"}
    return FileResponse(path, media_type="video/mp4", headers=headers)


@routes.get("/static/{name}")
def static(name: str) -> Response:
    if name not in STATIC:
        raise HTTPException(404, NO_PAGE)
    return Response((HERE / "static" / name).read_bytes(), media_type=STATIC[name])


def ranking(
    site: Website, step: VotingStep, visitor: Session, sent: dict[str, str] | None = None, error: str = ""
) -> Response:
    """The page of a ranking: as `sent`, else as drafted."""
    draft = site.database.draft(visitor.voter.id, step.group, step.question)
    drafted = {letter: draft[c] for letter, c in zip(step.letters, step.competitors, strict=True)} if draft else {}
    given = sent or {letter: str(rank) for letter, rank in drafted.items()}
    return page(
        "step.html",
        422 if error else 200,
        step=step,
        steps=site.plan.steps,
        prompt=site.plan.prompts[step.group],
        question=QUESTIONS[step.question],
        meaning=MEANINGS[step.question],
        group=(step.number - 1) // len(QUESTIONS) + 1,
        order=sorted(step.letters, key=lambda letter: (drafted.get(letter, 0), letter)),
        ranks={letter: given.get(letter, "") for letter in step.letters},
        csrf=visitor.csrf,
        error=error,
    )


def _redirect(number: int | None) -> Response:
    """To this step, or to the welcome page if all are answered."""
    return RedirectResponse("/" if number is None else f"/step/{number}", 303)


def step_of(plan: StudyPlan, voter: Voter, number: int) -> VotingStep:
    position, question = divmod(number - 1, len(QUESTIONS))
    group, competitors = voter.shown[position]
    return VotingStep(number, group, question, competitors)


def ranks_of(step: VotingStep, fields: dict[str, str]) -> list[int] | None:
    """Ranks by competitor, from a form with ranks by letter; None unless each rank occurs once."""
    given = [fields.get(letter, "") for letter in step.letters]
    if sorted(given) != [str(rank) for rank in range(1, len(given) + 1)]:
        return None
    by_competitor = dict(zip(step.competitors, map(int, given), strict=True))
    return [by_competitor[competitor] for competitor in range(len(given))]


def serve(store: Store, plan: StudyPlan, listening: socket.socket, host: str, url: str) -> None:
    """Serve on an open socket until a signal. `host` is its address, `url` the public one."""
    hosts = {"127.0.0.1", "localhost", host, urlsplit(url).hostname or host}
    config = uvicorn.Config(
        app(store, plan, sorted(hosts), is_secure=url.startswith("https:")),
        log_level="warning",
        access_log=False,  # it would contain invitations and addresses
        server_header=False,
        date_header=False,
    )
    uvicorn.Server(config).run(sockets=[listening])


async def _body(request: Request) -> bytes:
    """The body of a small request; a larger one is refused without reading it."""
    content = b""
    announced = request.headers.get("content-length", "0")
    too_large = not announced.isdecimal() or int(announced) > MOST_BYTES
    if not too_large:
        async for part in request.stream():
            content += part
            too_large = len(content) > MOST_BYTES
            if too_large:
                break
    if too_large:
        raise HTTPException(413, "This is too large.")
    return content
