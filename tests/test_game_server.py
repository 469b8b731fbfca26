"""The diffing game with a language model behind a server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from game_factory import (
    SETTING,
    TRUE,
    Toys,
    finding,
    held,
    sheet,
    swapped,
)

from diffbench.game import Budget, worst_last
from diffbench.game_file import PlayedGame, write_game
from diffbench.game_score import score_game
from diffbench.offline_judge import OfflineJudge
from diffbench.openai_judge import OpenAIJudge
from diffbench.panel import Panel
from diffbench.question import Play
from diffbench.spending import FREE

pytest_plugins = ("game_factory",)
pytestmark = pytest.mark.usefixtures("own_verdicts")


class Chat(BaseHTTPRequestHandler):
    """Asks a prompt in each of two turns, then concludes; the second request is answered by an error first."""

    protocol_version = "HTTP/1.1"
    seen: ClassVar[list[dict[str, Any]]] = []

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Chat.seen.append(body)
        prompt = body["messages"][-1]["content"]
        turn = prompt.count(": prompt: ")
        said: dict[str, Any] = {"explanation": "active at is"}
        if '"action"' in prompt:
            said = {"action": "ask", "prompts": [f"the hat of {turn} is"], "account": None}
            if turn == 2 or "No more prompts may be given" in prompt:
                account = TRUE.model_dump(mode="json")
                said = {"action": "conclude", "prompts": [], "account": account}
        message = {"role": "assistant", "content": json.dumps(said), "refusal": None}
        document = {
            "id": "1", "object": "chat.completion", "created": 1, "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
        }  # fmt: skip
        content = json.dumps(document).encode()
        self.send_response(500 if len(Chat.seen) == 2 else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


KEY = "sk-canary-5a1d"


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """The requests to a server on the loopback interface, to which the openai client is pointed."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Chat) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{server.server_address[1]}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setenv("DIFFBENCH_JUDGE_BACKOFF", "0.01")
        monkeypatch.setenv("DIFFBENCH_JUDGE_PRICE", "1000,1000")
        Chat.seen.clear()
        yield Chat.seen
        server.shutdown()


def test_a_language_model_plays_once_and_is_replayed_for_nothing(chat: list[Any], tmp_path: Path) -> None:
    agent = OpenAIJudge.bound("canary-model")
    game = held(agent(), Toys(swapped), evidence=(finding(),), seed=918273)
    assert game.state == "ok" and game.account is not None and game.account.tokens_up == ("green",)
    assert [turn.left for turn in game.turns] == [None, 20, 19, 18] and len(chat) == 5, "one error on the way"
    assert game.usage.tokens == 440 and all(turn.verdict.prompt for turn in game.turns)
    n = len(chat)
    assert held(agent(), Toys(swapped), evidence=(finding(),), seed=918273) == game and len(chat) == n
    sent = json.dumps([body["messages"] for body in chat])
    assert "green" in sent and not any(canary in sent for canary in (KEY, "918273", "canary"))
    one = PlayedGame(setting=SETTING, game=game, score=score_game(game, sheet(), Panel(OfflineJudge()), 0))
    write_game(tmp_path, one, sheet())
    assert not any(KEY.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_a_language_model_is_made_to_conclude_while_it_can_be_paid(chat: list[Any]) -> None:
    agent = OpenAIJudge.bound("canary-model")()
    question = Play(presuppose=False, notes=None, asked=(), questions_left=20)
    turn = agent.estimate(question).cost
    reserve = agent.estimate(worst_last(question)).cost
    assert turn is not None and reserve is not None
    game = held(agent, budget=Budget(money=turn + reserve))
    assert game.state == "ok" and game.turns[0].left == 20 and game.turns[-1].left == 0
    assert game.usage.cost is not None and game.usage.cost <= turn + reserve
    poor = held(agent, budget=Budget(money=turn / 2), seed=1, presuppose=True)
    assert poor.state == "unaffordable" and poor.usage == FREE
