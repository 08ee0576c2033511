//! Texts that were made to be harmful where they are shown, stored or pasted: what a traced program
//! may have been given, and what a forged trace may hold.
//!
//! 1. No two are equal, and they are the same in every run.
//! 2. What may not stand in an output ([`unsafe_char`]) is stated from Unicode's own lists, not
//!    from the decoder's table of escapes.

use std::collections::BTreeSet;

/// Characters that act on the text around them: the controls of Unicode's bidirectional algorithm
/// (annex 9), separators of lines and paragraphs, and of its property Default_Ignorable_Code_Point
/// what has no place yet or a font cannot show. Of long ranges both ends and something between.
const HIDDEN: [u32; 58] = [
    0x61c, 0x200e, 0x200f, 0x202a, 0x202b, 0x202c, 0x202d, 0x202e, 0x2066, 0x2067, 0x2068, 0x2069,
    0x2028, 0x2029, 0xad, 0x34f, 0x115f, 0x1160, 0x17b4, 0x17b5, 0x180b, 0x180c, 0x180d, 0x180e,
    0x180f, 0x200b, 0x200c, 0x200d, 0x2060, 0x2061, 0x2062, 0x2063, 0x2064, 0x206a, 0x206b, 0x206f,
    0x3164, 0xfe00, 0xfe0e, 0xfe0f, 0xfeff, 0xffa0, 0xfff0, 0xfff8, 0xfff9, 0xfffa, 0xfffb,
    0x1bca0, 0x1bca3, 0x1d173, 0x1d17a, 0xe0000, 0xe0001, 0xe0041, 0xe007f, 0xe0100, 0xe01ef,
    0xe0fff,
];

/// The first character of a line of output that could change how the text around it is shown:
/// control characters of both sets, and what [`strings`] has of reordering and hidden ones.
pub fn unsafe_char(line: &str) -> Option<char> {
    if line.bytes().all(|b| (b' '..=b'~').contains(&b)) {
        return None;
    }
    line.chars().find(|c| c.is_control() || HIDDEN.contains(&u32::from(*c)))
}

/// The texts, more than 300: for terminals, for what reorders text, not UTF-8, for markup, tables,
/// JSON, paths, and for the forms in which exectrace itself writes.
pub fn strings() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = Vec::new();
    all.extend(controls());
    all.extend(hidden());
    all.extend(NOT_UTF8.iter().map(|b| b.to_vec()));
    for group in [TERMINAL, MARKUP, TABLES, JSON, PATHS, OWN_FORMS, ODD] {
        all.extend(group.iter().map(|s| s.as_bytes().to_vec()));
    }
    all.extend(long());
    let mut met = BTreeSet::new();
    all.retain(|s| met.insert(s.clone()));
    all
}

/// Those of [`strings`] that are UTF-8: a program can give them to an interface that takes `str`.
pub fn texts() -> Vec<String> {
    strings().into_iter().filter_map(|s| String::from_utf8(s).ok()).collect()
}

/// Each control character between two letters: of the first set and DEL as a byte, of the second
/// set as a character and as the byte that a terminal of eight bits takes for it.
fn controls() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for byte in (0..0x20).chain([0x7f]).chain(0x80..=0x9f) {
        all.push(vec![b'a', byte, b'b']);
        all.push(format!("x{}y", char::from(byte)).into_bytes());
    }
    all
}

fn hidden() -> Vec<Vec<u8>> {
    let each = HIDDEN.into_iter().filter_map(char::from_u32);
    each.map(|c| format!("user{c}nimda").into_bytes()).collect()
}

const NOT_UTF8: &[&[u8]] = &[
    b"\x80",
    b"\xbf\xbf\xbf",
    b"\xc0\x80",
    b"\xc0\xaf..\xc0\xaf",
    b"\xc1\xbf",
    b"\xc2",
    b"\xc2\"",
    b"\xe2\x82",
    b"\xe2\x28\xa1",
    b"\xe0\x80\x80",
    b"\xe0\x9f\xbf",
    b"\xed\xa0\x80",
    b"\xed\xbf\xbf",
    b"\xed\xa0\xbd\xed\xb8\x80",
    b"\xf0\x9f\x98",
    b"\xf0\x28\x8c\xbc",
    b"\xf0\x80\x80\x80",
    b"\xf4\x90\x80\x80",
    b"\xf5\x80\x80\x80",
    b"\xf8\x88\x80\x80\x80",
    b"\xfc\x84\x80\x80\x80\x80",
    b"\xfe",
    b"\xff",
    b"\xff\xfe<\0s\0>\0",
    b"\xfe\xff\0<\0s",
    b"caf\xe9",
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
    b"ok\xf0\x9f\x98\x80\xffok",
    b"\x9b31mred\x9b0m",
    b"\x9d0;title\x9c",
    b"\xeb\x58\x54\xf1",
    b"\xe2\x80\xae\xe2\x80",
];

const TERMINAL: &[&str] = &[
    "\x1b[2J\x1b[H",
    "\x1b[31mred\x1b[0m",
    "\x1b[8mhidden\x1b[28m",
    "\x1b[1A\x1b[2Kover the line above",
    "\x1b[6n",
    "\x1b[c",
    "\x1b[?1049h",
    "\x1b[?25l",
    "\x1b[999;999H",
    "\x1b[3J",
    "\x1b[20t",
    "\x1b[21t",
    "\x1b]0;title\x07",
    "\x1b]2;title\x1b\\",
    "\x1b]8;;https://example.org/\x1b\\link\x1b]8;;\x1b\\",
    "\x1b]52;c;cm0gLXJmIC8=\x07",
    "\x1b]1337;File=inline=1:AAAA\x07",
    "\x1b]4;1;?\x07",
    "\x1bP0;0|0A/17\x1b\\",
    "\x1bPq#0;2;0;0;0#0~~@@\x1b\\",
    "\x1b_Gf=100;AAAA\x1b\\",
    "\x1b^private\x1b\\",
    "\x1bc",
    "\x1b#8",
    "\x1b(0lqk\x1b(B",
    "\x1b",
    "\x1b[",
    "\x1b]",
    "\u{9b}31mred\u{9b}0m",
    "\u{9d}0;title\u{9c}",
    "\u{90}q\u{9c}",
    "100%\rhacked",
    "abc\x08\x08\x08xyz",
    "\x07\x07\x07",
    "\x0e graphics \x0f",
    "line\x0b\x0cfeeds",
    "up\u{8d}date",
    "one\ntwo",
    "one\r\ntwo",
    "\ttab",
    "\n",
    "\r",
    "\0",
    "a\0b",
    "\x7f\x7f",
];

const MARKUP: &[&str] = &[
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "</SCRIPT >",
    "<!--<script>",
    "-->",
    "]]>",
    "<![CDATA[x]]>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "<iframe srcdoc='<script>1</script>'>",
    "<style>*{display:none}</style>",
    "</title></textarea></style></noscript>",
    "\"><b>",
    "'><b>",
    "\" onmouseover=\"alert(1)",
    "' autofocus onfocus='alert(1)",
    "`onclick=alert(1)",
    "javascript:alert(1)",
    "JaVaScRiPt:alert(1)",
    "java\tscript:alert(1)",
    "data:text/html,<script>1</script>",
    "&lt;b&gt;",
    "&#60;b&#62;",
    "&amp;&quot;&apos;",
    "&",
    "<",
    "<a href=//example.org>x",
    "{{constructor.constructor('alert(1)')()}}",
    "${7*7}",
    "#{7*7}",
    "<%= 7*7 %>",
    "<?php echo 1 ?>",
    "<!DOCTYPE a [<!ENTITY b SYSTEM \"file:///etc/passwd\">]>&b;",
    "\u{ff1c}script\u{ff1e}",
    "x\r\nSet-Cookie: a=b",
    "x\r\n\r\n<html>",
    "[link](javascript:alert(1))",
    "![x](https://example.org/x)",
];

const TABLES: &[&str] = &[
    "=1+1",
    "=cmd|' /C calc'!A0",
    "=HYPERLINK(\"https://example.org\",\"x\")",
    "+1+1",
    "-1+1",
    "@SUM(1)",
    "\t=1+1",
    "\r=1+1",
    "\n=1+1",
    " =1+1",
    "\u{ff1d}1+1",
    "a,b",
    "a;b",
    "a|b",
    "a\tb",
    "\"",
    "\"\"",
    "\"a\",\"b\"",
    "'",
    "a\"b,c\nd",
    "|---|---|",
    "\u{2502} \u{2500} \u{2588}",
    "Robert'); DROP TABLE students;--",
    "1;DELETE FROM events",
    "' OR '1'='1",
    "x{le=\"+Inf\"} 1",
    "name{a=\"b\\\"} 1 # EOF",
];

const JSON: &[&str] = &[
    "\\",
    "\\\\",
    "\\\"",
    "\\n",
    "\\u0000",
    "\\u202e",
    "\\ud800",
    "\\ud83d\\ude00",
    "\\x1b[31m",
    "\\/",
    "\"}",
    "\"}]}",
    "\",\"injected\":\"",
    "{\"a\":1}",
    "[1,2]",
    "null",
    "true",
    "NaN",
    "Infinity",
    "-0",
    "1e999",
    "18446744073709551616",
    "__proto__",
    "constructor",
    "toString",
    "/* */",
    "//",
    "\u{2028}\u{2029}",
    "\u{feff}{}",
];

const PATHS: &[&str] = &[
    "../../../../etc/passwd",
    "..\\..\\windows\\system32",
    "/etc/passwd",
    "//server/share",
    "%2e%2e%2f",
    "..",
    ".",
    "/",
    "~root",
    "-rf",
    "--help",
    "-",
    "$(touch x)",
    "`touch x`",
    ";touch x",
    "|touch x",
    "&& touch x",
    "> x",
    "$HOME",
    "!!",
    "*",
    "?",
    "[a-z]*",
    "(a+)+$",
    "a b",
    " lead",
    "trail ",
    "file://host/x",
    "CON",
    "nul.txt",
    "a:b",
    "/proc/self/mem",
    "/dev/stdin",
    "%s%s%s%n",
    "%x %d %p",
    "{} {0} {name:?}",
    "{",
];

/// Texts that look like the raw text form, a folded stack or a line of the command.
const OWN_FORMS: &[&str] = &[
    "\" value=1 other=\"",
    "\"..90",
    "..90",
    "?77",
    "#00ff",
    "0x1234",
    "[1,2]\"",
    "batch 0 offset=0 length=64",
    "\nbatch 0 offset=0",
    "  +5 site 64 \"hit\" n=1",
    "\n  +5 site 64 \"hit\" n=1",
    "damage offset=0 length=1 crc",
    "\ndamage offset=0 length=1 crc",
    "kind 50 -",
    "site 64 ?",
    "main;work 12",
    "main;work 12\nother 7",
    "a;b;c",
    ";",
    " 12",
    "12",
    "\" 12",
    "[unknown]",
    "?",
    "\\xff",
    "\\u{202e}",
    "... and 5 more",
    "lost 0 events",
    "error: not a trace",
];

const ODD: &[&str] = &[
    "",
    " ",
    "  ",
    "0",
    "-1",
    "\u{a0}",
    "\u{ad}soft",
    "\u{34f}",
    "\u{115f}\u{1160}",
    "\u{180e}",
    "\u{2000}\u{3000}",
    "\u{3164}",
    "\u{fff9}a\u{fffa}b\u{fffb}",
    "\u{fffc}\u{fffd}",
    "\u{fffe}\u{ffff}",
    "\u{10ffff}",
    "\u{e000}\u{f8ff}",
    "\u{e0041}\u{e0042}\u{e007f}",
    "\u{fe0f}\u{fe0e}",
    "\u{0301}\u{0301}leading marks",
    "e\u{0301} \u{e9}",
    "\u{430}dmin",
    "\u{5d0}\u{5d1}\u{5d2} abc \u{5d3}",
    "\u{627}\u{644}\u{639} (x) 123",
    "\u{6f22}\u{5b57}",
    "\u{ff37}\u{ff49}\u{ff44}\u{ff45}",
    "\u{1f600}",
    "\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}",
    "\u{1f1e9}\u{1f1ea}",
    "\u{fdfd}",
    "\u{130}\u{131}\u{df}",
    "\u{1d54f}",
    "core::ops::function::FnOnce<(&'a str,)>::call_once{{closure}}",
    "_ZN4core3fmt9Formatter3pad17h0123456789abcdefE",
    "_RNvC6_123foo3bar",
    "_ZTSN",
    "_R",
    "operator<< <char, std::char_traits<char> >",
];

/// At the limits of a text in an event and beyond them, and what is slow or wide where it is shown.
fn long() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> =
        [15, 16, 255, 256, 1022, 1023, 1024, 1025, 4096].iter().map(|n| vec![b'l'; *n]).collect();
    for (unit, times) in [
        ("\u{20ac}", 342),
        ("\u{1f600}", 257),
        ("\u{0300}", 600),
        ("\u{202e}", 300),
        ("\"", 1024),
        ("\\", 1024),
        ("\x1b", 1024),
        ("\0", 1024),
        ("\n", 500),
        ("<", 1000),
        ("(", 1000),
        ("_ZN1a", 200),
        ("_RI", 300),
    ] {
        all.push(unit.repeat(times).into_bytes());
    }
    all.push(vec![0xff; 1024]);
    all.push(vec![0x80; 1025]);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_many_and_all_differ() {
        let all = strings();
        assert!(all.len() >= 300, "{}", all.len());
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        assert_eq!(all, strings());
        let (text, raw) = (texts().len(), all.len() - texts().len());
        assert!(text >= 250 && raw >= 50, "{text} texts, {raw} others");
        assert!(texts().iter().filter(|t| unsafe_char(t).is_some()).count() >= 100);
    }

    #[test]
    fn what_may_be_shown() {
        for c in ["\x1b", "\u{9b}", "\u{202e}", "\u{2028}", "\u{200d}", "\u{feff}", "\n", "\x7f"] {
            assert_eq!(unsafe_char(&format!("a{c}b")), c.chars().next());
        }
        assert_eq!(unsafe_char("caf\u{e9} \u{1f600} <b> \\u{202e}"), None);
    }
}
