// Keyboards of guests: what each key makes alone, with Shift, with AltGr, and with both, in the order
// of CODES. A blank is nothing (or what another key makes with less); a combining mark is a dead key.
// They are xkeyboard-config's, with which tests/unit/console/test_layouts.py compares them.

export const CODES = [
    "Backquote", "Digit1", "Digit2", "Digit3", "Digit4", "Digit5", "Digit6", "Digit7", "Digit8",
    "Digit9", "Digit0", "Minus", "Equal", "IntlYen", "KeyQ", "KeyW", "KeyE", "KeyR", "KeyT", "KeyY",
    "KeyU", "KeyI", "KeyO", "KeyP", "BracketLeft", "BracketRight", "KeyA", "KeyS", "KeyD", "KeyF",
    "KeyG", "KeyH", "KeyJ", "KeyK", "KeyL", "Semicolon", "Quote", "Backslash", "IntlBackslash",
    "KeyZ", "KeyX", "KeyC", "KeyV", "KeyB", "KeyN", "KeyM", "Comma", "Period", "Slash", "IntlRo",
];

export const LAYOUTS = {
    us: {
        label: "English (US)",
        levels: [
            "`1234567890-= qwertyuiop[]asdfghjkl;'\\ zxcvbnm,./ ",
            "~!@#$%^&*()_+ QWERTYUIOP{}ASDFGHJKL:\"| ZXCVBNM<>? ",
            "                                                  ",
            "                                      ¦           ",
        ],
    },
    uk: {
        label: "English (UK)",
        levels: [
            "`1234567890-= qwertyuiop[]asdfghjkl;'#\\zxcvbnm,./ ",
            "¬!\"£$%^&*()_+ QWERTYUIOP{}ASDFGHJKL:@~|ZXCVBNM<>? ",
            " ¹²³€½¾     \u0327    ¶ŧ   øþ\u0308\u0303æßðđŋħ ĸł\u0301\u0302\u0300 «»¢   µ ·  ",
            " ¡  ¼    ±°¿\u0328  § ®Ŧ¥ ıØÞ\u030a ÆẞÐªŊĦ  Ł\u030b\u030c\u0306¦  ©   º×÷\u0307 ",
        ],
    },
    de: {
        label: "German",
        levels: [
            "\u03021234567890ß\u0301 qwertzuiopü+asdfghjklöä#<yxcvbnm,.- ",
            "°!\"§$%&/()=?\u0300 QWERTZUIOPÜ*ASDFGHJKLÖÄ'>YXCVBNM;:_ ",
            " ¹²³¼½¬{[]}\\\u0327 @ €¶ŧ   øþ\u0308~æ ðđŋħ ĸł\u030b  |»«¢   µ·   ",
            " ¡ £¤    ± ¿\u0328    ®Ŧ¥ ıØÞ\u030a¯ÆẞÐªŊĦ\u0307 Ł \u030c\u0306   ©   º×÷  ",
        ],
    },
    ch: {
        label: "Swiss German",
        levels: [
            "§1234567890'\u0302 qwertzuiopü\u0308asdfghjklöä$<yxcvbnm,.- ",
            "°+\"*ç%&/()=?\u0300 QWERTZUIOPè!ASDFGHJKLéà£>YXCVBNM;:_ ",
            "¬|@#¼½  ¢]}\u0301\u0303   €¶ŧ   œþ[ æßðđŋħ ĸł { \\«»    µ ·  ",
            " ¡       ± ¿\u0328    ®Ŧ¥ ıŒÞ\u030a ÆẞÐªŊĦ  Ł\u030b\u030c\u0306¦  ©   º×÷\u0307 ",
        ],
    },
    fr: {
        label: "French",
        levels: [
            "²&é\"'(-è_çà)= azertyuiop\u0302$qsdfghjklmù*<wxcvbn,;:! ",
            "~1234567890°+ AZERTYUIOP\u0308£QSDFGHJKLM%µ>WXCVBN?./§ ",
            "¬¹ #{[|`\\^@]} æ«€¶ŧ   øþ ¤ ßðđŋħ ĸł  \u0300  »¢   \u0301 ·  ",
            " ¡       ± ¿\u0328 Æ  ®Ŧ¥ ıØÞ\u030a  ẞÐªŊĦ  Łº\u030c\u0306¦  ©   \u030b×÷\u0307 ",
        ],
    },
    be: {
        label: "Belgian",
        levels: [
            "²&é\"'(§è!çà)- azertyuiop\u0302$qsdfghjklmùµ<wxcvbn,;:= ",
            "³1234567890°_ AZERTYUIOP\u0308*QSDFGHJKLM%£>WXCVBN?./+ ",
            "¬|@#¼½^{[ }\\\u0327   €¶ŧ   œþ ]æßðđŋħ ĸł\u0301 \u0300 «»¢     ·\u0303 ",
            " ¡       ± ¿\u0328    ®Ŧ¥ ıŒÞ\u030a ÆẞÐªŊĦ  Ł\u030b\u030c\u0306   ©   º×÷\u0307 ",
        ],
    },
    es: {
        label: "Spanish",
        levels: [
            "º1234567890'¡ qwertyuiop\u0300+asdfghjklñ\u0301ç<zxcvbnm,.- ",
            "ª!\"·$%&/()=?¿ QWERTYUIOP\u0302*ASDFGHJKLÑ\u0308Ç>ZXCVBNM;:_ ",
            "\\|@#~½¬{[]} \u0327   €¶ŧ   øþ  æßðđŋħ ĸł\u0303   «»¢   µ    ",
            "   £     ±° \u0328  § ®Ŧ¥ ıØÞ\u030a ÆẞÐ ŊĦ  Ł\u030b\u030c\u0306¦  ©    ×÷\u0307 ",
        ],
    },
    latam: {
        label: "Spanish (Latin America)",
        levels: [
            "|1234567890'¿ qwertyuiop\u0301+asdfghjklñ{}<zxcvbnm,.- ",
            "°!\"#$%&/()=?¡ QWERTYUIOP\u0308*ASDFGHJKLÑ[]>ZXCVBNM;:_ ",
            "¬ @·~½     \\\u0327   €¶ŧ   øþ  æßðđŋħ ĸł \u0302\u0300 «»¢   µ    ",
            "   £     ±  \u0328  § ®Ŧ¥ ıØÞ\u030a ÆẞÐªŊĦ  Ł\u030b     ©   º×÷\u0307 ",
        ],
    },
    it: {
        label: "Italian",
        levels: [
            "\\1234567890'ì qwertyuiopè+asdfghjklòàù<zxcvbnm,.- ",
            "|!\"£$%&/()=?^ QWERTYUIOPé*ASDFGHJKLç°§>ZXCVBNM;:_ ",
            "¬¹²³¼½ {[]}`~ @ €¶ŧ   øþ  æßðđŋħ ĸł #\u0300« »¢  ñµ\u0301·  ",
            "¦¡\u030b\u0303     ±\u0328¿\u0302    ®Ŧ¥ ıØÞ  ÆẞÐªŊĦ  Ł\u0327\u030a\u0306   ©  Ñº×\u0308÷ ",
        ],
    },
    pt: {
        label: "Portuguese",
        levels: [
            "\\1234567890'« qwertyuiop+\u0301asdfghjklçº\u0303<zxcvbnm,.- ",
            "|!\"#$%&/()=?» QWERTYUIOP*\u0300ASDFGHJKLÇª\u0302>ZXCVBNM;:_ ",
            "¬¹@£§½ {[]} \u0327   €¶ŧ   øþ\u0308 æßðđŋħ ĸł      ¢   µ ·  ",
            " ¡       ±°¿\u0328    ®Ŧ¥ ıØÞ\u030a ÆẞÐ ŊĦ  Ł\u030b\u030c\u0306   ©    ×÷\u0307 ",
        ],
    },
    br: {
        label: "Portuguese (Brazil)",
        levels: [
            "'1234567890-= qwertyuiop\u0301[asdfghjklç\u0303]\\zxcvbnm,.;/",
            "\"!@#$%\u0308&*()_+ QWERTYUIOP\u0300{ASDFGHJKLÇ\u0302}|ZXCVBNM<>:?",
            "¬¹²³£¢      §   °®ŧ   øþ´ªæßðđŋħ ĸł ~º\u030c«»©   µ ·  ",
            " ¡½¾¼ ¨  ± ¿\u0328     Ŧ¥ ıØÞ` ÆẞÐ ŊĦ  Ł\u030b^ \u0306       ×÷\u0307 ",
        ],
    },
    dk: {
        label: "Danish",
        levels: [
            "½1234567890+\u0301 qwertyuiopå\u0308asdfghjklæø'<zxcvbnm,.- ",
            "§!\"#¤%&/()=?\u0300 QWERTYUIOPÅ\u0302ASDFGHJKLÆØ*>ZXCVBNM;:_ ",
            "¾¡@£$ ¥{[]}±|   €®þ   œ  \u0303ªßðđŋħ ĸł  \u030b\\«»©   µ\u0327·  ",
            "¶¹²³¼¢ ÷  °¿¦     Þ  ıŒ \u030a\u030cºẞÐ ŊĦ  Ł  ×¬       \u0328\u0307  ",
        ],
    },
    no: {
        label: "Norwegian",
        levels: [
            "|1234567890+\\ qwertyuiopå\u0308asdfghjkløæ'<zxcvbnm,.- ",
            "§!\"#¤%&/()=?\u0300 QWERTYUIOPÅ\u0302ASDFGHJKLØÆ*>ZXCVBNM;:_ ",
            "¦¡@£$½¥{[]}±\u0301   €®þ   œ  \u0303ªßðđŋħ ĸł  \u030b «»©   µ\u0327   ",
            "¶¹²³¼  ÷  °¿¬   ¢ Þ  ıŒ \u030a\u030cºẞÐ ŊĦ  Ł  ×¾       \u0328·  ",
        ],
    },
    se: {
        label: "Swedish",
        levels: [
            "§1234567890+\u0301 qwertyuiopå\u0308asdfghjklöä'<zxcvbnm,.- ",
            "½!\"#¤%&/()=?\u0300 QWERTYUIOPÅ\u0302ASDFGHJKLÖÄ*>ZXCVBNM;:_ ",
            "¶¡@£$€¥{[]}\\±    ®þ   œ  \u0303ªßðđŋħ ĸłøæ´|«»©   µ\u0327·  ",
            "¾¹²³¼¢ ÷  °¿¬     Þ  ıŒ \u030a\u030cºẞÐ ŊĦ  ŁØÆ×¦       \u0328\u0307  ",
        ],
    },
    fi: {
        label: "Finnish",
        levels: [
            "§1234567890+\u0301 qwertyuiopå\u0308asdfghjklöä'<zxcvbnm,.- ",
            "½!\"#¤%&/()=?\u0300 QWERTYUIOPÅ\u0302ASDFGHJKLÖÄ*>ZXCVBNM;:_ ",
            "  @£$  {[]}\\\u0327   € þ  ıœ \u030b\u0303 ßð    ĸ øæ\u030c| ×   ŋµ    ",
            " ¡ »«     °¿\u0328     Þ   Œ \u030a  ẞÐ      ØÆ\u0306¦ ·   Ŋ  \u0307  ",
        ],
    },
    nl: {
        label: "Dutch",
        levels: [
            "@1234567890/° qwertyuiop\u0308*asdfghjkl+\u0301<]zxcvbnm,.- ",
            "§!\"#$%&_()'?\u0303 QWERTYUIOP\u0302|ASDFGHJKL±\u0300>[ZXCVBNM;:= ",
            "¬¹²³¼½¾£{} \\\u0327   €¶þÿüïò ~ áßðªŋħ ĸł    «»¢  ñ ¸·  ",
            " ¡         ¿\u0328    ®Þ¥ÜÏÒ ^ ÁẞÐ ŊĦ  Ł\u030b`\u0306¦  ©  Ñº  \u0307 ",
        ],
    },
    pl: {
        label: "Polish",
        levels: [
            "`1234567890-= qwertyuiop[]asdfghjkl;'\\ zxcvbnm,./ ",
            "~!@#$%^&*()_+ QWERTYUIOP{}ASDFGHJKL:\"| ZXCVBNM<>? ",
            "¬ ²³¢€½§·«» \u0327  œę©ß   óþ\u0308\u0303ąśðæŋ   ł\u0301\u0302\u0300 żźć  ńµ    ",
            " ¡¿£¼   ¾±° \u0328  ŒĘ® ¥  ÓÞ\u030a ĄŚÐÆŊ   Ł\u030b\u030c\u0306¦ŻŹĆ  Ń ×÷\u0307 ",
        ],
    },
    cz: {
        label: "Czech",
        levels: [
            ";+ěščřžýáíé=\u0301 qwertzuiopú)asdfghjklů§\u0308\\yxcvbnm,.- ",
            "\u030a1234567890%\u030c QWERTZUIOP/(ASDFGHJKL\"!'|YXCVBNM?:_ ",
            "` @#$ ^&*{}     €¶ŧ   øþ[]~đĐ    łŁ    °      <>  ",
            " \u0303 \u0302\u0306 \u0328\u0300\u0307 \u030b \u0327    ®Ŧ¥ ıØÞ÷×ÆẞÐªŊĦ    ß ¦  ©   º    ",
        ],
    },
    hu: {
        label: "Hungarian",
        levels: [
            "0123456789öüó qwertzuiopőúasdfghjkléáűíyxcvbnm,.- ",
            "§'\"+!%/=()ÖÜÓ QWERTZUIOPŐÚASDFGHJKLÉÁŰÍYXCVBNM?:_ ",
            "¬~\u030c^\u0306\u030a\u0328`\u0307\u0301\u030b\u0308\u0327 \\|Ä¶ŧ €   ÷×äđĐ[]ħ łŁ$ß¤<>#&@{} ; * ",
            " \u0303 \u0302 ° \u0300 ´ ¨¸    ®Ŧ¥  ØÞ   ẞÐªŊĦ   ¢     ©   º    ",
        ],
    },
    tr: {
        label: "Turkish",
        levels: [
            "\"1234567890*- qwertyuıopğüasdfghjklşi,<zxcvbnmöç. ",
            "é!'^+%&/()=?_ QWERTYUIOPĞÜASDFGHJKLŞİ;>ZXCVBNMÖÇ: ",
            "  £#$½¾{[]}\\| @ €¶₺ ûîô \u0308~âß ª     ´ ` «»¢   µ×·\u0307 ",
            "°¡²³¼    ± ¿     ® ¥ÛÎÔ \u030a Â        \u0301\u030c\u0300¦  ©   º ÷  ",
        ],
    },
    jp: {
        label: "Japanese",
        levels: [
            " 1234567890-^\\qwertyuiop@[asdfghjkl;:] zxcvbnm,./ ",
            " !\"#$%&'()~= |QWERTYUIOP`{ASDFGHJKL+*} ZXCVBNM<>?_",
            "                                                  ",
            "                                      ¦           ",
        ],
    },
};
