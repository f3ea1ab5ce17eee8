"use strict";

// What is shown comes from the manager's own endpoint, and only ever as text.

const EVERY = 3000; // milliseconds
const EVENTS = 200; // rows at most
const at = (id) => document.getElementById(id);
let token = sessionStorage.getItem("token") || "";
let last = null; // the last event's number
let running = 0; // each entering has a number of its own

async function ask(method, path, body) {
  const answer = await fetch(path, {
    method,
    headers: { Authorization: `Bearer ${token}` },
    body: body === undefined ? undefined : JSON.stringify(body),
    cache: "no-store",
  });
  const value = await answer.json();
  if (!answer.ok) {
    const error = new Error(`${value.title}: ${value.detail}`);
    error.status = answer.status;
    throw error;
  }
  return value;
}

function say(text, bad) {
  at("state").textContent = text;
  at("state").className = bad ? "bad" : "";
}

function cell(content, name) {
  const made = document.createElement("td");
  if (content instanceof Node) made.append(content);
  else made.textContent = content === null || content === "" ? "–" : String(content);
  if (name) made.className = name;
  return made;
}

function button(text, label, act) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = text;
  made.setAttribute("aria-label", label);
  made.addEventListener("click", async () => {
    made.disabled = true;
    try {
      await act();
      await look();
    } catch (error) {
      say(error.message, true);
    }
    made.disabled = false;
  });
  return made;
}

function fill(id, rows, empty) {
  const body = at(id);
  const columns = body.parentElement.querySelectorAll("th").length;
  const made = rows.map((cells) => {
    const row = document.createElement("tr");
    row.append(...cells);
    return row;
  });
  if (!made.length) {
    const only = cell(empty, "empty");
    only.colSpan = columns;
    const row = document.createElement("tr");
    row.append(only);
    made.push(row);
  }
  body.replaceChildren(...made);
}

function ago(seconds) {
  if (seconds === null) return "–";
  const past = Math.max(0, Date.now() / 1000 - seconds);
  if (past < 100) return `${Math.round(past)} s`;
  if (past < 6000) return `${Math.round(past / 60)} min`;
  return `${(past / 3600).toFixed(1)} h`;
}

function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) {
    count /= 1024;
    unit += 1;
  }
  return `${unit ? count.toFixed(1) : count} ${units[unit]}`;
}

function load(proxy) {
  const made = document.createElement("span");
  const meter = document.createElement("meter");
  meter.max = proxy.hard;
  meter.high = proxy.soft;
  meter.value = proxy.load;
  made.append(meter, `${proxy.load} of ${proxy.soft}, at most ${proxy.hard}`);
  return made;
}

function showProxies(proxies) {
  fill("proxies", proxies.map((one) => {
    const path = `/v1/proxies/${encodeURIComponent(one.name)}/drain`;
    const act = one.condition === "draining"
      ? button("Use again", `Use ${one.name} again`, () => ask("DELETE", path))
      : button("Drain", `Drain ${one.name}`, () => ask("POST", path, {}));
    return [
      cell(one.name), cell(one.zone), cell(one.condition, one.condition), cell(load(one)),
      cell(one.reported === null ? one.fault || "never" : `${ago(one.reported)} ago`),
      cell(one.link), cell(act),
    ];
  }), "No proxy is registered.");
}

function showSessions(sessions) {
  at("sessions-count").textContent = sessions.length ? `${sessions.length}` : "";
  fill("sessions", sessions.map((one) => [
    cell(one.vm), cell(one.user), cell(one.state, one.state), cell(one.source),
    cell(ago(one.opened ?? one.created), "number"), cell(bytes(one.to_guest), "number"),
    cell(bytes(one.from_guest), "number"), cell(one.proxy),
    cell(button("Disconnect", `Disconnect ${one.user} from ${one.vm}`,
      () => ask("DELETE", `/v1/console-sessions/${one.id}`))),
  ]), "Nobody sees a console.");
}

function showVms(vms) {
  at("vms-count").textContent = vms.length ? `${vms.length}` : "";
  fill("vms", vms.map((one) => [
    cell(one.name), cell(one.role), cell(one.zone), cell(one.account),
    cell(one.health || "not heard", one.health),
    cell(`${one.running ?? "–"} / ${one.generation ?? "–"}`, "number"), cell(one.template),
    cell(one.requires_upgrade ? `${one.agent_version}: requires upgrade` : one.agent_version,
      one.requires_upgrade ? "upgrade" : ""),
    cell(one.result),
  ]), "No VM is registered.");
}

function showCapacity(zones) {
  at("capacity").textContent = zones.map((one) =>
    `${one.zone}: room for ${one.room} sessions; proxies: ${one.running} run, ${one.wanted} wanted`,
  ).join("; ");
}

function showEvents(events) {
  const body = at("events");
  for (const one of events) {
    last = one.id;
    const row = document.createElement("tr");
    row.append(
      cell(one.time.replace("T", " ").slice(0, 19)), cell(one.severity, one.severity),
      cell(one.vm || "manager"), cell(one.kind), cell(one.message, "wide"),
    );
    body.prepend(row);
  }
  while (body.rows.length > EVENTS) body.deleteRow(-1);
}

async function look() {
  const [proxies, sessions, vms, capacity] = await Promise.all([
    ask("GET", "/v1/proxies"), ask("GET", "/v1/console-sessions?limit=500"),
    ask("GET", "/v1/vms?limit=500"), ask("GET", "/v1/capacity"),
  ]);
  showProxies(proxies);
  showSessions(sessions);
  showVms(vms);
  showCapacity(capacity);
  say(`As of ${new Date().toLocaleTimeString()}`);
}

const pause = (time) => new Promise((done) => setTimeout(done, time));

async function repeat(mine, act, wait) {
  while (mine === running) {
    try {
      await act();
    } catch (error) {
      if (mine !== running) return;
      say(error.message, true);
      if (error.status === 401) return leave(error.message);
      await pause(EVERY);
    }
    await pause(wait);
  }
}

async function follow() {
  const query = last === null ? "limit=50" : `after=${last}&wait=20`;
  const found = await ask("GET", `/v1/events?${query}`);
  if (last === null && !found.length) last = 0;
  showEvents(found);
}

function leave(why) {
  running += 1;
  token = "";
  sessionStorage.removeItem("token");
  at("all").hidden = at("leave").hidden = true;
  at("enter").hidden = false;
  say(why || "Who are you?", Boolean(why));
}

async function enter() {
  running += 1;
  last = null;
  at("events").replaceChildren();
  try {
    await look();
  } catch (error) {
    return leave(error.message);
  }
  sessionStorage.setItem("token", token);
  at("enter").hidden = true;
  at("all").hidden = at("leave").hidden = false;
  repeat(running, look, EVERY);
  repeat(running, follow, 100);
}

at("enter").addEventListener("submit", (event) => {
  event.preventDefault();
  token = at("token").value.trim();
  at("token").value = "";
  enter();
});
at("leave").addEventListener("click", () => leave());
if (token) enter();
