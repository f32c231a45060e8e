"""A SignalR hub by aiosignalr, which is tested against Microsoft's own client. Argument: the port, 0 for any.

At /hub it is negotiated with, or not; /front sends whoever shows its token on to the hub, with another one, as Azure's service
does. Says who connects and how; the order `call` calls a method of every client. Ends with its input.
"""

import asyncio
import json
import sys

from aiohttp import web
from aiosignalr.server import Hub, SignalRServer
from aiosignalr.server.aiohttp_server import build_aiohttp_app
from aiosignalr.server.hub import AllClientsProxy


def say(what):
    print(json.dumps(what), flush=True)


class Station(Hub):
    async def on_connected(self):
        query = self.context.query_string
        say({"connected": query.get("access_token"), "negotiated": "id" in query, "from": query.get("from")})

    async def on_disconnected(self, error=None):
        say({"disconnected": True})

    # A method whose result is not declared has none.
    async def add(self, one: int, two: int) -> int:
        return one + two

    async def fail(self):
        raise ValueError("nobody on duty")


async def main(port):
    server = SignalRServer(Station)
    app = build_aiohttp_app(server, path="/hub")

    async def front(request):
        if request.headers.get("Authorization") != "Bearer front":
            return web.json_response({"error": "not with this token"}, status=401)
        address = f"http://{request.host}/hub?from=front"
        return web.json_response({"url": address, "accessToken": "for the hub"})

    app.router.add_post("/front/negotiate", front)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, reuse_address=True).start()
    say({"port": runner.addresses[0][1]})
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        method, *arguments = json.loads(line)["call"]
        await AllClientsProxy(server.lifetime).send(method, *arguments)


asyncio.run(main(int(sys.argv[1])))
