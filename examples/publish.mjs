// Publish one message to Leadline from Node: npm install @nats-io/transport-node @nats-io/jetstream
//   node examples/publish.mjs [nats://127.0.0.1:4222]
import { connect, headers } from "@nats-io/transport-node";
import { jetstream } from "@nats-io/jetstream";

// An id as a subject's token: what is outside A-Za-z0-9_- is written =XX per UTF-8 byte.
const token = (id) =>
  Array.from(new TextEncoder().encode(id), (byte) => {
    const char = String.fromCharCode(byte);
    return /[A-Za-z0-9_-]/.test(char) ? char : "=" + byte.toString(16).toUpperCase().padStart(2, "0");
  }).join("");

// Both spellings of the fields are taken: messageId or message_id.
const message = {
  messageId: "wamid.HBgLNDkxNTExMjM0NTY5FQIAEhg=",
  businessId: "acme-foods",
  leadId: "+4915112345678",
  intent: "COMPLAINT",
  confidence: 0.91,
  text: "The flour came open.",
};

const connection = await connect({ servers: process.argv[2] ?? "nats://127.0.0.1:4222" });
const [business, lead] = [token(message.businessId), token(message.leadId)];
const head = headers();
head.set("Nats-Msg-Id", `${business}/${lead}/${message.messageId}`);
// The promise is kept once JetStream has confirmed: after that the message is not lost.
const confirmed = await jetstream(connection).publish(`leads.in.${business}.${lead}`, JSON.stringify(message), {
  headers: head,
});
console.log(confirmed.duplicate ? "confirmed: a duplicate" : `confirmed: sequence ${confirmed.seq}`);
await connection.close();
