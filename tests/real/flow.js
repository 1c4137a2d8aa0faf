// node-postgres through the gateway: prints what it found as one JSON object.
"use strict";

const fs = require("node:fs");
const { finished } = require("node:stream/promises");
const { Client, Query } = require("pg");
const copy = require("pg-copy-streams");

const env = process.env;

function settings(over) {
  return {
    host: "localhost",
    port: Number(env.PORT),
    user: env.WHO,
    password: env.PASSWORD,
    database: env.DATABASE,
    application_name: "node flow",
    ssl: { ca: fs.readFileSync(env.CA) },
    ...over,
  };
}

async function codeOf(work) {
  try {
    await work();
  } catch (error) {
    return error.code;
  }
  return null;
}

async function copyThrough(client) {
  const rows = Array.from({ length: 5000 }, (_, i) => `${i}\tcopied ${i}\n`).join("");
  await client.query("CREATE TEMP TABLE copied (id int, words text)");
  const into = client.query(copy.from("COPY copied FROM STDIN"));
  into.end(rows);
  await finished(into);
  let back = "";
  for await (const chunk of client.query(copy.to("COPY copied TO STDOUT"))) back += chunk;
  return back === rows;
}

async function cancelled(client) {
  const query = new Query("SELECT pg_sleep(60), 'node'");
  const outcome = new Promise((resolve) => {
    query.on("error", (error) => resolve(error.code));
    query.on("end", () => resolve(null));
  });
  client.query(query);
  const watching = new Client(settings());
  await watching.connect();
  const running = "SELECT pid FROM pg_stat_activity WHERE query LIKE '%''node''' AND pid = $1";
  while ((await watching.query(running, [client.processID])).rowCount === 0);
  await watching.end();
  new Client(settings()).cancel(client, query); // in clear text, as most drivers do
  return outcome;
}

async function heard(client) {
  const told = new Promise((resolve) => client.on("notification", resolve));
  await client.query("LISTEN news");
  await client.query("SELECT pg_notify('news', $1)", ["hello"]);
  return (await told).payload;
}

async function main() {
  const client = new Client(settings());
  await client.connect();
  const found = {};

  const sum = await client.query("SELECT $1::int + $2::int AS sum, $3::text AS words", [
    40, 2, "größer",
  ]);
  found.parameters = sum.rows[0];

  found.prepared = [];
  for (const number of [3, 4]) {
    const named = { name: "square", text: "SELECT $1::int * $1::int AS n", values: [number] };
    found.prepared.push((await client.query(named)).rows[0].n);
  }

  const binary = Buffer.from([0, 255, 1, 254]);
  found.bytes = (await client.query("SELECT $1::bytea AS b", [binary])).rows[0].b.equals(binary);

  await client.query("CREATE TEMP TABLE kept (n int)");
  await client.query("BEGIN");
  await client.query("INSERT INTO kept VALUES ($1)", [1]);
  found.error = await codeOf(() => client.query("SELECT 1/0"));
  found.aborted = await codeOf(() => client.query("SELECT 1"));
  await client.query("ROLLBACK");
  await client.query("BEGIN; INSERT INTO kept VALUES (2); COMMIT");
  found.kept = (await client.query("SELECT n FROM kept")).rows.map((row) => row.n);

  const many = await Promise.all(
    Array.from({ length: 50 }, (_, i) => client.query("SELECT $1::int AS n", [i])),
  );
  found.queued = many.every((result, i) => result.rows[0].n === i);

  found.copied = await copyThrough(client);
  found.heard = await heard(client);
  found.cancelled = await cancelled(client);
  await client.end();

  const wrong = new Client(settings({ password: "wrong" }));
  found.wrong = await codeOf(() => wrong.connect());
  const forbidden = new Client(settings({ user: "bob/app_rw#hidden" }));
  found.forbidden = await codeOf(() => forbidden.connect());
  const stranger = new Client(settings({ ssl: {} }));
  found.unverified = await codeOf(() => stranger.connect());
  console.log(JSON.stringify(found));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
