// soketi on loopback, with one application: key "tide", secret "moon". Its argument: the port of its API and its sockets.
import { createRequire } from "node:module";
import { obey, say } from "../lines.mjs";

const require = createRequire(import.meta.url);
const { Server } = require("@soketi/soketi");
const Pusher = require("pusher");

// It writes to the console what the test does not read as lines.
console.log = () => {};
const port = Number(process.argv[2]);
const [appId, key, secret] = ["1", "tide", "moon"];
await Server.start(
  {
    host: "127.0.0.1",
    port,
    "metrics.host": "127.0.0.1",
    "metrics.port": 0,
    "appManager.array.apps": [{ id: appId, key, secret, enableClientMessages: true }],
    // It looks for others of its kind: only on loopback, where nobody answers.
    "cluster.hostname": "127.0.0.1",
    "cluster.unicast": "127.0.0.1",
    "cluster.port": port,
  },
  () => say({ port }),
);
const pusher = new Pusher({ appId, key, secret, host: "127.0.0.1", port: String(port), useTLS: false });

obey({
  trigger: async ([channel, event, data]) => {
    const answer = await pusher.trigger(channel, event, data);
    return answer.status;
  },
});
