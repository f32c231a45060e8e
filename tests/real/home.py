"""Home Assistant's core with its HTTP and WebSocket API, without devices. Its argument: the folder of its state.

Says where it listens and two long-lived tokens: of the owner, and of a user who is no administrator. Ends with its input.
"""

import asyncio
import json
import socket
import sys
from datetime import timedelta

from homeassistant import auth, bootstrap, config_entries, core, loader
from homeassistant.auth.const import GROUP_ID_ADMIN, GROUP_ID_READ_ONLY
from homeassistant.auth.models import TOKEN_TYPE_LONG_LIVED_ACCESS_TOKEN
from homeassistant.setup import async_setup_component


def say(what):
    print(json.dumps(what), flush=True)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def token(hass, name, group):
    """The token of a user, who is made when there is none of that name."""
    users = await hass.auth.async_get_users()
    user = next((user for user in users if user.name == name), None)
    if user is None:
        user = await hass.auth.async_create_user(name, group_ids=[group])
        await hass.auth.async_create_refresh_token(
            user,
            client_name="relay",
            token_type=TOKEN_TYPE_LONG_LIVED_ACCESS_TOKEN,
            access_token_expiration=timedelta(days=1),
        )
    return hass.auth.async_create_access_token(next(iter(user.refresh_tokens.values())))


async def main(folder):
    hass = core.HomeAssistant(folder)
    loader.async_setup(hass)
    hass.config_entries = config_entries.ConfigEntries(hass, {})
    await bootstrap.async_load_base_functionality(hass)
    hass.auth = await auth.auth_manager_from_config(hass, [{"type": "homeassistant"}], [])
    port = free_port()
    http = {"server_host": "127.0.0.1", "server_port": port}
    if not await async_setup_component(hass, "websocket_api", {"http": http}):
        sys.exit("the WebSocket API could not be set up")
    tokens = {"owner": await token(hass, "owner", GROUP_ID_ADMIN), "guest": await token(hass, "guest", GROUP_ID_READ_ONLY)}
    # By itself it writes a second later; a test may kill it before.
    store = hass.auth._store
    await store._store.async_save(store._data_to_save())
    await hass.async_start()
    say({"port": port, **tokens})
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


asyncio.run(main(sys.argv[1]))
