// A Socket.IO service: the official server, which lets in who signs with its key, has rooms as channels, keeps what a lost
// connection misses if it is told to, and says what it sees. The argument is JSON: port, options of the server, `slow` (ms that
// every HTTP request waits), and `upgrades`: "wait" for the order to let them in, or "cut" their connections.
import { createHmac, timingSafeEqual } from "node:crypto";
import { Server } from "socket.io";
import { obey, say } from "./lines.mjs";

const { port, namespace = "/", slow = 0, upgrades, ...options } = JSON.parse(process.argv[2]);
const KEY = "the key of this test";

const base64 = (value) => Buffer.from(value).toString("base64url");
const signature = (text) => createHmac("sha256", KEY).update(text).digest("base64url");

function mint(claims) {
  const text = `${base64(JSON.stringify({ alg: "HS256", typ: "JWT" }))}.${base64(JSON.stringify(claims))}`;
  return `${text}.${signature(text)}`;
}

function claims(token) {
  const [head, body, mark] = String(token).split(".");
  const wanted = Buffer.from(signature(`${head}.${body}`));
  const given = Buffer.from(mark ?? "");
  if (wanted.length !== given.length || !timingSafeEqual(wanted, given)) throw new Error("the token is not ours");
  return JSON.parse(Buffer.from(body, "base64url"));
}

const io = new Server({ serveClient: false, ...options });
const service = io.of(namespace);
service.use((socket, next) => {
  try {
    socket.data.user = claims(socket.handshake.auth.token).sub;
    next();
  } catch (error) {
    say({ refused: error.message });
    next(error);
  }
});
service.on("connection", (socket) => {
  say({ connected: socket.data.user, recovered: socket.recovered, transport: socket.conn.transport.name });
  socket.conn.on("upgrade", (transport) => say({ upgraded: transport.name }));
  socket.conn.on("heartbeat", () => say({ heartbeat: socket.data.user }));
  socket.on("disconnect", (reason) => say({ disconnected: reason }));
  socket.on("subscribe", (channel, answer) => {
    if (channel === "secret") return answer({ error: `${channel} is not for ${socket.data.user}` });
    socket.join(channel);
    say({ subscribed: channel });
    answer({ ok: true });
  });
  socket.on("unsubscribe", (channel, answer) => {
    socket.leave(channel);
    say({ unsubscribed: channel });
    answer({ ok: true });
  });
  socket.on("publish", (channel, data, answer) => {
    if (data === null) return answer({ error: "nothing to publish" });
    // Bytes that travelled beside the event travel back beside the answer, turned around.
    const { bytes } = data;
    if (Buffer.isBuffer(bytes)) {
      say({ bytes: bytes.toString("base64") });
      return answer({ bytes: Buffer.from(bytes).reverse() }, Buffer.from("more"));
    }
    say({ published: { channel, data } });
    answer({ id: 7 });
  });
});

const asking = [];
let stream;
let seq = 0;
const event = (channel, data) => service.to(channel).emit("event", { channel, seq: ++seq, data });
const sockets = () => [...service.sockets.values()];

obey({
  mint,
  event: ({ channel, data }) => event(channel, data),
  // Bytes within the event, which travel beside it.
  bytes: ({ channel, bytes }) => event(channel, { bytes: Buffer.from(bytes) }),
  // An event of its own name.
  other: (data) => service.emit("other", data),
  elsewhere: () => io.of("/").emit("event", { channel: "a", data: "elsewhere" }),
  // Cuts every connection without a word, and has news before anybody can be back.
  cut: (news) => {
    for (const socket of sockets()) socket.conn.transport.socket.terminate();
    for (const { channel, data } of news) event(channel, data);
  },
  // A hundred events a second, until it ends; each tenth with an attachment.
  stream: (channel) => {
    let n = 0;
    const next = () => event(channel, n % 10 === 9 ? { n: n++, bytes: Buffer.from([n]) } : { n: n++ });
    stream = { timer: setInterval(next, 10), count: () => n };
  },
  end: () => {
    clearInterval(stream.timer);
    return stream.count();
  },
  upgrade: () => asking.splice(0).forEach((go) => go()),
  kick: () => {
    for (const socket of sockets()) socket.disconnect();
  },
});
io.listen(port ?? 0);
const { handleRequest, handleUpgrade } = io.engine;
io.engine.handleRequest = (...request) => setTimeout(() => handleRequest.apply(io.engine, request), slow);
io.engine.handleUpgrade = (request, socket, head) => {
  say({ upgrading: new URL(request.url, "http://localhost").searchParams.has("sid") });
  if (upgrades === "cut") return socket.destroy();
  const go = () => handleUpgrade.call(io.engine, request, socket, head);
  upgrades === "wait" ? asking.push(go) : go();
};
io.httpServer.on("listening", () => say({ port: io.httpServer.address().port }));
