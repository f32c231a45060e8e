// A status service: which of our services are up, told over Socket.IO to whoever shows a token.
//
//   subscribe:status, unsubscribe:status      acknowledged; subscribing brings everything once
//   request:refresh (serviceId)               acknowledged; looks again and tells
//   token:renew (token)                       acknowledged; the connection may stay longer
//   service:status {serviceId, …}             one service has changed
//   service:bulk-update [{serviceId, …}, …]   all services there are
//   token:expired                             and the connection ends
//
// For operators, without a token: POST /services/ID sets a service's state, DELETE takes it out.
import { createServer } from "node:http";
import { Server } from "socket.io";
import { verify } from "./jwt.mjs";

const { PORT = 8090, STATUS_KEY = "change me" } = process.env;
const MOST_BYTES = 10_000;

const services = new Map(["payments", "search"].map((serviceId) => [serviceId, { serviceId, state: "up", version: 1 }]));
const all = () => [...services.values()];

const http = createServer(async (request, response) => {
  const [, serviceId] = /^\/services\/([\w-]+)$/.exec(request.url) ?? [];
  if (serviceId && request.method === "POST") {
    let body = "";
    for await (const chunk of request) if ((body += chunk).length > MOST_BYTES) return request.destroy();
    try {
      set(serviceId, String(JSON.parse(body).state));
    } catch {
      return response.writeHead(400).end();
    }
    return response.writeHead(204).end();
  }
  if (serviceId && request.method === "DELETE") {
    services.delete(serviceId);
    io.to("status").emit("service:bulk-update", all());
    return response.writeHead(204).end();
  }
  response.writeHead(404).end();
});

function set(serviceId, state) {
  const version = (services.get(serviceId)?.version ?? 0) + 1;
  services.set(serviceId, { serviceId, state, version });
  io.to("status").emit("service:status", services.get(serviceId));
}

const io = new Server(http, { serveClient: false });

// Lets the connection live as long as its token does.
function admit(socket, token) {
  const { sub, exp } = verify(token, STATUS_KEY);
  clearTimeout(socket.data.expiry);
  socket.data.expiry = setTimeout(
    () => {
      socket.emit("token:expired");
      socket.disconnect();
    },
    exp * 1000 - Date.now(),
  );
  return sub;
}

io.use((socket, next) => {
  try {
    console.log(`${admit(socket, socket.handshake.auth.token)} connects`);
    next();
  } catch (error) {
    console.log(`refused: ${error.message}`);
    next(error);
  }
});

io.on("connection", (socket) => {
  socket.on("disconnect", () => clearTimeout(socket.data.expiry));
  socket.on("subscribe:status", (answer) => {
    socket.join("status");
    console.log("subscribed");
    answer({ ok: true });
    socket.emit("service:bulk-update", all());
  });
  socket.on("unsubscribe:status", (answer) => {
    socket.leave("status");
    console.log("unsubscribed");
    answer({ ok: true });
  });
  socket.on("request:refresh", (serviceId, answer) => {
    const known = services.get(serviceId);
    if (!known) return answer({ error: `no service ${serviceId}` });
    answer({ ok: true });
    set(serviceId, known.state);
  });
  socket.on("token:renew", (token, answer) => {
    try {
      console.log(`${admit(socket, token)} may stay`);
      answer({ ok: true });
    } catch (error) {
      answer({ error: error.message });
    }
  });
});

http.listen(Number(PORT), "127.0.0.1", () => console.log(`listening on 127.0.0.1:${http.address().port}`));
