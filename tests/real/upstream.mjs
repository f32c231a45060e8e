// A service that speaks Tidegate's plain dialect, on the npm package ws: it acknowledges, and emits what the test says.
import { WebSocketServer } from "ws";
import { obey, say } from "./lines.mjs";

const service = new WebSocketServer({ port: 0, host: "127.0.0.1" });
service.on("listening", () => say({ port: service.address().port }));
service.on("connection", (client) => {
  client.on("message", (text) => {
    const request = JSON.parse(text);
    say({ heard: request });
    if (request.id !== undefined) client.send(JSON.stringify({ type: "ack", id: request.id, data: { seen: request.data } }));
  });
  client.on("close", (code) => say({ closed: code }));
});

obey({
  emit: ([channel, data]) => {
    for (const client of service.clients) client.send(JSON.stringify({ type: "event", channel, data }));
  },
});
