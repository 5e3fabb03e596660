// What happens is shown without a reload: server-sent events say which part of the page changed, and that part is fetched
// again from the server, which renders it. Without this file every page works; it just has to be reloaded.

const PARTS = {
  "call.started": ["running", "call"], "call.forwarded": ["running", "call"], "call.ended": ["running", "call", "sessions"],
  "server.changed": ["servers"], "catalogue.changed": ["servers"], "config.changed": ["servers", "quotas"],
  "state.changed": ["holds", "hold", "servers", "stops"], "session.ended": ["sessions"],
};
const QUIET_MS = 250;
const waiting = new Map();
const fetching = new Set();

function state(text) {
  const place = document.getElementById("live");
  if (place && place.textContent !== text) place.textContent = text;
}

// Who is typing or choosing in a part keeps it as it is.
function busy(part) {
  const active = document.activeElement;
  return part.contains(active) && ["INPUT", "TEXTAREA", "SELECT"].includes(active.tagName);
}

async function refresh(part) {
  const answer = await fetch(part.dataset.part, { headers: { accept: "text/html" }, redirect: "error" });
  if (!answer.ok) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (busy(part)) return soon(part);
  const focused = part.contains(document.activeElement) ? document.activeElement.id : "";
  part.replaceChildren(...page.body.childNodes);
  if (focused) document.getElementById(focused)?.focus();
}

// One fetch of a part at a time, so that an older answer never replaces a newer one.
function soon(part) {
  if (waiting.has(part)) return;
  waiting.set(part, setTimeout(async () => {
    waiting.delete(part);
    if (fetching.has(part) || busy(part)) return soon(part);
    fetching.add(part);
    try {
      await refresh(part);
    } catch {
      state("not live: reload the page");
    } finally {
      fetching.delete(part);
    }
  }, QUIET_MS));
}

function changed(name, message) {
  for (const part of document.querySelectorAll("[data-part]")) {
    if (name !== "reset" && !PARTS[name].includes(part.dataset.kind)) continue;
    if (part.dataset.about && message?.data && !message.data.includes(part.dataset.about)) continue;
    soon(part);
  }
}

if (document.querySelector("[data-part]")) {
  // From where this page was rendered, so that nothing between that and now is missed.
  const events = new EventSource(`/console/events?after=${encodeURIComponent(document.getElementById("live").dataset.after)}`);
  events.onopen = () => state("live");
  events.onerror = () => state(events.readyState === EventSource.CLOSED ? "not live: reload the page" : "not live: trying again");
  for (const name of Object.keys(PARTS)) events.addEventListener(name, (message) => changed(name, message));
  events.addEventListener("reset", () => changed("reset"));
  // What ages without an event (quotas, ages of calls) is looked at now and then.
  setInterval(() => document.visibilityState === "visible"
    && document.querySelectorAll("[data-every]").forEach(soon), 5000);
}
