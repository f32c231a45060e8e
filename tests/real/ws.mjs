// An app on the feed with the npm package ws. Its argument: the feed's address.
import WebSocket from "ws";
import { obey, say } from "./lines.mjs";

const socket = new WebSocket(process.argv[2], ["tidegate.v1"]);
socket.on("open", () => say({ open: socket.protocol }));
socket.on("unexpected-response", (_, response) => say({ refused: response.statusCode }));
socket.on("error", (error) => say({ error: error.message }));
socket.on("message", (data, binary) => say(binary ? { binary: data.length } : { frame: JSON.parse(data) }));
socket.on("ping", (data) => say({ ping: String(data) }));
socket.on("pong", (data) => say({ pong: String(data) }));
socket.on("close", (code, reason) => say({ close: code, reason: String(reason) }));

obey({
  send: (request) => socket.send(JSON.stringify(request)),
  binary: (text) => socket.send(Buffer.from(text)),
  ping: (data) => socket.ping(data),
  close: ([code, reason]) => socket.close(code, reason),
});
