// What is around the screen: the bar, and the panels for keys, text and the clipboard. What policy
// forbids is not offered; that it cannot be had all the same is the proxy's affair.

import { Layout, plan, type } from "./keyboard.js";
import { LAYOUTS } from "./layouts.js";

const KEYS = {
    control: [0xffe3, "ControlLeft"], alt: [0xffe9, "AltLeft"], altgr: [0xfe03, "AltRight"],
    shift: [0xffe1, "ShiftLeft"], super: [0xffeb, "MetaLeft"], escape: [0xff1b, "Escape"],
    tab: [0xff09, "Tab"], enter: [0xff0d, "Enter"], delete: [0xffff, "Delete"],
    print: [0xff61, "PrintScreen"],
};
for (let number = 1; number <= 12; number++) {
    KEYS[`f${number}`] = [0xffbd + number, `F${number}`];
}
const PAUSE = 20;  // milliseconds between keys
const USUAL = { view_only: false, to_guest: true, from_guest: true, keyboard: "" };

const $ = (id) => document.getElementById(id);
const is = (button, what) => button.getAttribute(`aria-${what}`) === "true";
const set = (button, what, on) => button.setAttribute(`aria-${what}`, String(Boolean(on)));

export class Panels {
    constructor() {
        this._rfb = this._keys = null;
        this._policy = USUAL;
        this._chosen = false;  // has the user chosen a keyboard?
        this._typing = false;
        this._layout = "";
        for (const [name, { label }] of Object.entries(LAYOUTS)) {
            $("layout").add(new Option(label, name));
        }
        for (let number = 1; number <= 12; number++) {
            const button = document.createElement("button");
            button.type = "button";
            button.className = "press";
            button.dataset.keys = `control alt f${number}`;
            button.textContent = `F${number}`;
            button.setAttribute("aria-label", `Ctrl+Alt+F${number}`);
            $("terminals").append(button);
        }
        this._listen();
    }

    _listen() {
        $("cad").addEventListener("click", () => this._press("control alt delete"));
        for (const name of ["keys", "text", "clipboard"]) {
            $(`${name}-button`).addEventListener("click", () => this._show($(name).hidden ? name : ""));
            $(name).addEventListener("keydown", (event) => {
                if (event.key === "Escape") {
                    this._show("");
                    this._rfb?.focus();
                }
            });
        }
        for (const button of document.querySelectorAll(".press")) {
            button.addEventListener("click", () => this._press(button.dataset.keys));
        }
        for (const button of document.querySelectorAll(".sticky")) {
            button.addEventListener("click", () => this._hold(button, !is(button, "pressed")));
        }
        $("layout").addEventListener("change", () => {
            this._chosen = true;
            this._choose($("layout").value);
            this._rfb?.focus();
        });
        $("type").addEventListener("click", () => this._type());
        $("stop").addEventListener("click", () => { this._typing = false; });
        $("copy").addEventListener("click", () => this._copy());
        $("paste").addEventListener("click", () => {
            this._rfb?.clipboardPasteFrom($("pasted").value);
            $("clipped").textContent = "The guest has it on its clipboard.";
        });
        $("scale").addEventListener("click", () => {
            set($("scale"), "pressed", !is($("scale"), "pressed"));
            this._scale();
        });
        $("fullscreen").addEventListener("click", () => {
            document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen();
        });
        document.addEventListener("fullscreenchange", () => {
            set($("fullscreen"), "pressed", document.fullscreenElement);
        });
        $("hide").addEventListener("click", () => this._bar(false));
        $("show").addEventListener("click", () => this._bar(true));
    }

    // -- the connection -----------------------------------------------------------------------

    attach(rfb, keys) {
        this._rfb = rfb;
        this._keys = keys;
        rfb.background = "#0b1016";
        this._apply();
        this._scale();
        rfb.addEventListener("clipboard", (event) => {
            $("copied").value = event.detail.text;
            $("clipped").textContent = "";
        });
    }

    // What the proxy says that this session may do.
    allow(policy) {
        this._policy = { ...USUAL, ...policy };
        if (!this._chosen && Object.hasOwn(LAYOUTS, this._policy.keyboard)) {
            $("layout").value = this._layout = this._policy.keyboard;
        }
        this._apply();
    }

    _apply() {
        const { view_only, to_guest, from_guest } = this._policy;
        $("view-only").hidden = !view_only;
        for (const button of document.querySelectorAll(".acts")) {
            button.hidden = view_only;
        }
        $("in").hidden = view_only || !to_guest;
        $("out").hidden = !from_guest;
        $("clipboard-button").hidden = $("in").hidden && $("out").hidden;
        if (this._rfb) {
            this._rfb.viewOnly = view_only;
        }
        this._choose(this._layout);
    }

    enable(on) {
        for (const button of document.querySelectorAll(".acts, #clipboard-button")) {
            button.disabled = !on;
        }
        if (!on) {
            this._show("");
            this._rfb = this._keys = null;
            for (const button of document.querySelectorAll(".sticky")) {
                set(button, "pressed", false);
            }
        }
    }

    // -- the bar ------------------------------------------------------------------------------

    _show(name) {
        const panels = ["keys", "text", "clipboard"];
        const open = panels.some((one) => !$(one).hidden);
        for (const one of panels) {
            $(one).hidden = one !== name;
            set($(`${one}-button`), "expanded", one === name);
        }
        if (name) {
            $(name).querySelector("select, div:not([hidden]) > textarea:not([readonly]), textarea")?.focus();
        } else if (open) {
            this._rfb?.focus();  // who closes a panel types on, into the guest
        }
    }

    _bar(shown) {
        $("bar").hidden = !shown;
        $("show").hidden = shown;
        this._show("");
        shown ? $("hide").focus() : this._rfb?.focus();
    }

    _scale() {
        if (this._rfb) {
            this._rfb.scaleViewport = is($("scale"), "pressed");  // else it can be scrolled
        }
    }

    // -- keys ---------------------------------------------------------------------------------

    _press(names) {
        this._keys?.chord(names.split(" ").map((name) => KEYS[name]));
        this._rfb?.focus();
    }

    _hold(button, down) {
        set(button, "pressed", down);
        this._keys?.hold(...KEYS[button.dataset.key], down);
        this._rfb?.focus();
    }

    _choose(name) {
        this._layout = name;
        if (this._keys) {
            this._keys.layout = name ? new Layout(name) : null;
        }
    }

    async _type() {
        const { strokes, missing } = plan($("typed").value, new Layout(this._layout || "us"));
        const left = missing.length ? ` Not on this keyboard, and left out: ${missing.join(" ")}` : "";
        const keys = this._keys;
        this._typing = true;
        $("type").disabled = true;
        $("typing").textContent = "";
        $("stop").hidden = $("progress").hidden = false;
        const done = await type(keys, strokes, {
            pause: PAUSE,
            going: () => this._typing && this._keys === keys,
            tell: (at, all) => {
                $("progress").max = all;
                $("progress").value = at;
                $("typing").textContent = at % 10 === 0 ? `${at} of ${all}` : $("typing").textContent;
            },
        });
        this._typing = false;
        $("type").disabled = false;
        $("stop").hidden = $("progress").hidden = true;
        $("typing").textContent = (done ? "Typed." : "Stopped.") + left;
    }

    // -- the clipboard ------------------------------------------------------------------------

    async _copy() {
        try {
            await navigator.clipboard.writeText($("copied").value);
            $("clipped").textContent = "Copied.";
        } catch {  // without TLS, or where the user does not want it
            $("copied").select();
            $("clipped").textContent = "Press Ctrl+C to copy.";
        }
    }
}
