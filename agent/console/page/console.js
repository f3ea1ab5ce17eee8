// The page of a console: takes the one-time secret out of the address, opens noVNC with it, and
// comes back by itself with a secret of its own making when the connection is lost.

import RFB from "/novnc/core/rfb.js";
import { Keys } from "./keyboard.js";
import { Panels } from "./panels.js";

const RETRY = [500, 1000, 2000, 4000, 8000, 8000, 8000, 8000];  // milliseconds
// Closed for good: by the user, by policy or management, because the hypervisor's screen is gone.
const FINAL = new Set([1000, 1002, 1003, 1008, 1009, 1011]);
// What a proxy says that knows nothing of the secret: perhaps it is another one, and not told yet.
const UNKNOWN = "This console link is not valid";
const AGAIN = "A link opens once, within a minute or so, and from where it was asked for.";
const LOST = "The connection was lost", SILENT = "No connection to the console proxy";
const KEPT = "console.back";
const screen = document.getElementById("screen");
const state = document.getElementById("state");
const panels = new Panels();
let rfb = null;
let secret = new URLSearchParams(location.hash.slice(1)).get("s") ?? kept();
let tries = 0;
let told = "";
let ever = false;  // has there been a screen?

// Nobody finds the secret in the address bar or the history.
history.replaceState(null, "", location.pathname);

// What this tab comes back with when it is loaded again. Frames of one tab would have one in common,
// and a browser may have no such store for us.
function kept() {
    try {
        return window.top === window ? sessionStorage.getItem(KEPT) : null;
    } catch {
        return null;
    }
}

function keep(back) {
    try {
        if (window.top !== window || back === null) {
            sessionStorage.removeItem(KEPT);
        } else {
            sessionStorage.setItem(KEPT, back);
        }
    } catch {
        // then it is not loaded again without a new link
    }
}

function base64url(bytes) {
    return btoa(String.fromCharCode(...bytes)).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
}

// Where it is: "waiting", "connected" or "ended".
function say(where, text, hint = "") {
    document.body.classList.toggle("connected", where === "connected");
    document.body.classList.toggle("ended", where === "ended");
    if (where === "ended") {
        keep(null);
    }
    state.textContent = text;
    state.classList.toggle("bad", where === "ended");
    document.getElementById("reason").textContent = text;
    document.getElementById("hint").textContent = hint;
}

async function open() {
    told = "";
    const back = base64url(crypto.getRandomValues(new Uint8Array(32)));
    const protocols = ["binary", "policy", `secret.${secret}`];
    if (crypto.subtle) {  // which a page without TLS has not; then a lost console is over
        const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(back));
        protocols.push(`resume.${base64url(new Uint8Array(digest))}`);
    }
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(`${scheme}//${location.host}/socket`, protocols);
    let named = false;
    let end = { code: 1006, reason: "" };  // noVNC does not tell how it ended
    socket.addEventListener("close", (event) => { end = event; });
    socket.addEventListener("message", (event) => {
        if (typeof event.data === "string") {  // the policy; all of RFB is binary
            event.stopImmediatePropagation();
            panels.allow(JSON.parse(event.data));
        }
    });
    rfb = new RFB(screen, socket);
    panels.attach(rfb, new Keys(rfb));
    rfb.addEventListener("connect", () => {
        secret = crypto.subtle ? back : null;
        keep(secret);
        tries = 0;
        ever = true;
        say("connected", "connected");
        panels.enable(true);
        rfb.focus();
    });
    rfb.addEventListener("desktopname", (event) => {
        if (!named) {  // what a hypervisor calls itself later is none of the user's affair
            named = true;
            document.title = event.detail.name;
            document.getElementById("title").textContent = event.detail.name;
        }
    });
    rfb.addEventListener("securityfailure", (event) => {
        told = event.detail.reason || "The console was refused.";
    });
    rfb.addEventListener("disconnect", () => {
        rfb = null;
        panels.enable(false);
        const early = ever && told.startsWith(UNKNOWN) && tries < RETRY.length;
        if (!early && (told || FINAL.has(end.code))) {
            say("ended", told || end.reason || "The console is closed.", AGAIN);
        } else if (secret === null || tries >= RETRY.length) {
            say("ended", `${ever ? LOST : SILENT}. Open the console again.`, AGAIN);
        } else {
            say("waiting", `${ever ? LOST : SILENT}; ${ever ? "coming back" : "trying again"} …`, end.reason);
            setTimeout(open, RETRY[tries++]);
        }
    });
}

// Another link in the same tab differs in what is behind the # alone, for which no browser loads a
// page anew.
addEventListener("hashchange", () => location.reload());

if (secret) {
    open();
} else {
    say("ended", "This console link is not complete. Open the console again.", AGAIN);
}
