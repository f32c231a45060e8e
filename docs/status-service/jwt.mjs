// JSON Web Tokens signed by HMAC-SHA256 (RFC 7519), as small as an example may have them.
import { createHmac, timingSafeEqual } from "node:crypto";

const sign = (text, key) => createHmac("sha256", key).update(text).digest("base64url");
const base64 = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");

// Claims that are good for so many seconds.
export function mint(claims, seconds, key) {
  const exp = Math.floor(Date.now() / 1000) + seconds;
  const text = `${base64({ alg: "HS256", typ: "JWT" })}.${base64({ ...claims, exp })}`;
  return `${text}.${sign(text, key)}`;
}

// The claims of a token that is ours and still good.
export function verify(token, key) {
  const [head, body, given = ""] = String(token).split(".");
  const wanted = Buffer.from(sign(`${head}.${body}`, key));
  if (wanted.length !== Buffer.byteLength(given) || !timingSafeEqual(wanted, Buffer.from(given))) {
    throw new Error("the token is not ours");
  }
  const claims = JSON.parse(Buffer.from(body, "base64url"));
  if (claims.exp * 1000 <= Date.now()) throw new Error("the token has expired");
  return claims;
}
