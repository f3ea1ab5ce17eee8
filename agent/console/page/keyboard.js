// Which keys make a character on the guest's keyboard, and how they are pressed.
//
// A hypervisor that takes scan codes (QEMU's extended key events) is told keys, not characters: a
// German guest makes a z of the key that an American one makes a y of. Others are told symbols, and
// look them up on an American keyboard (ESXi); so the symbol of the American key is what they get.

import keysyms from "/novnc/core/input/keysymdef.js";
import { CODES, LAYOUTS } from "./layouts.js";

const SHIFT = 1, ALTGR = 2;
const SHIFT_KEYS = new Map([["ShiftLeft", 0xffe1], ["ShiftRight", 0xffe2]]);
const ALTGR_KEYS = new Map([["AltRight", 0xfe03]]);
const ALT_R = 0xffea;
const DEAD = {  // combining mark -> keysym, and what stands alone after a blank
    "\u0300": [0xfe50, "`"], "\u0301": [0xfe51, "´"], "\u0302": [0xfe52, "^"], "\u0303": [0xfe53, "~"],
    "\u0306": [0xfe55, "˘"], "\u0307": [0xfe56, "˙"], "\u0308": [0xfe57, "¨"], "\u030a": [0xfe58, "°"],
    "\u030b": [0xfe59, "˝"], "\u030c": [0xfe5a, "ˇ"], "\u0327": [0xfe5b, "¸"], "\u0328": [0xfe5c, "˛"],
};
const PLAIN = {
    " ": { code: "Space", level: 0, keysym: 0x20 },
    "\n": { code: "Enter", level: 0, keysym: 0xff0d },
    "\t": { code: "Tab", level: 0, keysym: 0xff09 },
};

export class Layout {
    constructor(name) {
        this._keys = new Map(Object.entries(PLAIN));
        this._symbols = new Map();  // keysym -> character, of what somebody types
        LAYOUTS[name].levels.forEach((row, level) => [...row].forEach((character, at) => {
            if (character !== " " && !this._keys.has(character)) {
                const keysym = DEAD[character]?.[0] ?? keysyms.lookup(character.codePointAt(0));
                this._keys.set(character, { code: CODES[at], level, keysym });
            }
        }));
        for (const character of this._keys.keys()) {
            if (!DEAD[character]) {
                this._symbols.set(keysyms.lookup(character.codePointAt(0)), character);
            }
        }
    }

    // The keys of a character one after the other, or null where this keyboard has none.
    strokes(character) {
        const key = this._keys.get(character);
        if (key) {
            return [key];
        }
        const alone = Object.keys(DEAD).find((mark) => DEAD[mark][1] === character);
        const [base, mark, more] = alone ? [" ", alone] : character.normalize("NFD");
        const both = [this._keys.get(mark), this._keys.get(base)];
        return mark && !more && both[0] && both[1] ? both : null;
    }

    // The same of a symbol that a key of the user's makes; null for one that is no character.
    ofSymbol(keysym) {
        let character = this._symbols.get(keysym);
        if (!character && (keysym > 0x20 && keysym < 0x7f || keysym >= 0xa0 && keysym < 0x100)) {
            character = String.fromCodePoint(keysym);
        } else if (!character && keysym >= 0x01000000) {
            character = String.fromCodePoint(keysym & 0xffffff);
        }
        return character ? this.strokes(character) : null;
    }
}

const US = LAYOUTS.us.levels;

// What an American keyboard makes of this key.
function americanSymbol(stroke) {
    const at = CODES.indexOf(stroke.code);
    const character = at < 0 ? "" : US[stroke.level & SHIFT][at];
    return character && character !== " " ? character.codePointAt(0) : stroke.keysym;
}

// All keys on their way to the guest: those that noVNC sees pressed go through here as well.
export class Keys {
    constructor(rfb) {
        this._rfb = rfb;
        this._send = rfb.sendKey.bind(rfb);
        this._held = new Map();  // code -> keysym, of Shift and AltGr
        this.layout = null;  // where there is one, characters are typed rather than keys passed on
        rfb.sendKey = (keysym, code, down) => this._pass(keysym, code, down);
    }

    _pass(keysym, code, down) {
        if (down === undefined) {
            this._pass(keysym, code, true);
            this._pass(keysym, code, false);
            return;
        }
        const strokes = this.layout?.ofSymbol(keysym);
        if (strokes) {
            if (down) {
                strokes.forEach((stroke) => this.press(stroke));
            }
            return;
        }
        if (this.layout && code === "CapsLock") {
            return;  // the characters have it already
        }
        if (SHIFT_KEYS.has(code) || code === "AltRight" && keysym === 0xfe03) {
            down ? this._held.set(code, keysym) : this._held.delete(code);
        }
        this._send(keysym, code, down);
    }

    // Press a key and let it go, with Shift and AltGr as it needs them, whatever is held.
    press(stroke) {
        const codes = this._rfb._qemuExtKeyEventSupported !== false;  // noVNC tells nobody else
        const undo = [];
        for (const [keys, bit] of [[SHIFT_KEYS, SHIFT], [ALTGR_KEYS, ALTGR]]) {
            const held = [...this._held].filter(([code]) => keys.has(code));
            if (stroke.level & bit && held.length === 0) {
                const [code, keysym] = [...keys][0];
                const symbol = bit === ALTGR && !codes ? ALT_R : keysym;
                this._send(symbol, code, true);
                undo.unshift([symbol, code, false]);
            } else if (!(stroke.level & bit)) {
                for (const [code, keysym] of held) {
                    this._send(keysym, code, false);
                    undo.unshift([keysym, code, true]);
                }
            }
        }
        const symbol = codes ? stroke.keysym : americanSymbol(stroke);
        this._send(symbol, stroke.code, true);
        this._send(symbol, stroke.code, false);
        undo.forEach((key) => this._send(...key));
    }

    // Keys that are pressed together, and let go in the other order.
    chord(keys) {
        keys.forEach(([keysym, code]) => this._send(keysym, code, true));
        [...keys].reverse().forEach(([keysym, code]) => this._send(keysym, code, false));
    }

    hold(keysym, code, down) {
        this._pass(keysym, code, down);
    }
}

// What of a text this keyboard can type, and what it cannot.
export function plan(text, layout) {
    const strokes = [], missing = new Set();
    for (const character of text.replace(/\r\n?/g, "\n").normalize("NFC")) {
        const found = layout.strokes(character);
        found ? strokes.push(found) : missing.add(character);
    }
    return { strokes, missing: [...missing] };
}

// Type it, no faster than a guest's keyboard controller takes it. False where it was stopped.
export async function type(keys, strokes, { pause, tell, going }) {
    for (let at = 0; at < strokes.length; at++) {
        if (!going()) {
            return false;
        }
        for (const stroke of strokes[at]) {
            keys.press(stroke);
        }
        tell(at + 1, strokes.length);
        await new Promise((resolve) => setTimeout(resolve, pause));
    }
    return true;
}
