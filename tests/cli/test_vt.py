"""Whatever was recorded, what comes out draws and does nothing else."""

from __future__ import annotations

import re
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cli.vt import MAX_SEQUENCE, MAX_STRING, RESET, Filter

# All that may come out, said once more and independently.
HARMLESS = re.compile(
    r"""(?:
        [^\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]+
      | [\b\t\n\r]                                           # BS HT LF CR
      | \x1b[78DEM]                                          # DECSC DECRC IND NEL RI
      | \x1b\[ [0-9:;]{0,160} m                              # SGR
      | \x1b\[ (?:[0-9]{1,4})? [@A-GILMPSTXZ`abde]           # moves, inserts, deletes, scrolls
      | \x1b\[ (?:[0-9]{1,4})? (?:;(?:[0-9]{1,4})?)? [Hfr]   # CUP HVP DECSTBM
      | \x1b\[ [0-2]? [JK]                                   # ED, EL; never the scrollback
      | \x1b\[ [su]                                          # SCOSC SCORC
      | \x1b\[4[hl]                                          # IRM
      | \x1b\[\? (?:6|7|25) [hl]                             # DECOM DECAWM DECTCEM
    )*""",
    re.VERBOSE,
)

VECTORS = {
    "text": ("hé 漢 😀 e\u0301", "hé 漢 😀 e\u0301"),
    "zero-width joiner": ("👩\u200d💻", "👩\u200d💻"),
    "private use": ("\ue0b0", "\ue0b0"),
    "format effectors": ("a\b\t\r\n", "a\b\t\r\n"),
    "VT and FF are line feeds": ("a\vb\fc", "a\nb\nc"),
    "SGR": ("\x1b[1;31mred\x1b[0m\x1b[m", "\x1b[1;31mred\x1b[0m\x1b[m"),
    "SGR with colons": ("\x1b[4:3;38:2::1:2:3m", "\x1b[4:3;38:2::1:2:3m"),
    "cursor": ("\x1b[A\x1b[12B\x1b[5;10H\x1b[;5H\x1b[d", "\x1b[A\x1b[12B\x1b[5;10H\x1b[;5H\x1b[d"),
    "erase": ("\x1b[J\x1b[2J\x1b[1K\x1b[3X", "\x1b[J\x1b[2J\x1b[1K\x1b[3X"),
    "insert, delete": ("\x1b[4h\x1b[4l\x1b[2@\x1b[P\x1b[L\x1b[M",) * 2,
    "scroll": ("\x1b[2;5r\x1bM\x1bD\x1bE\x1b[3S\x1b[T\x1b[r",) * 2,
    "save, restore": ("\x1b7\x1b8\x1b[s\x1b[u",) * 2,
    "repeat": ("=\x1b[40b",) * 2,
    "modes": ("\x1b[?25l\x1b[?7;6h", "\x1b[?25l\x1b[?7h\x1b[?6h"),
    "modes among others": ("\x1b[?1;25;2004h", "\x1b[?25h"),
    "numbers are clamped": ("\x1b[99999999999A\x1b[0000007B", "\x1b[9999A\x1b[7B"),
    "controls inside": ("\x1b[3\n1\rmred", "\n\r\x1b[31mred"),
    "ESC begins anew": ("\x1b[3\x1b[1m", "\x1b[1m"),
    "CAN and SUB end": ("\x1b[3\x18a\x1b]0;t\x1ab", "ab"),
    "text in a sequence ends it": ("\x1b[3é1m", "é1m"),
    "line drawing": ("\x1b(0lqk\x1b(Bl", "┌─┐l"),
    "line drawing, shifted": ("\x1b)0q\x0eq\x0fq", "q─q"),
    "line drawing in sequences": ("\x1b(0\x1b[2qx\x1b(B\x1b[m", "│\x1b[m"),
    "a set with a longer name": ("\x1b(%0q", "q"),
    "alternate screen": (
        "\x1b[?1049hvim\x1b[?1049l$",
        "\x1b7\x1b[m\x1b[2Jvim\x1b[m\x1b[2J\x1b8$",
    ),
    "alternate screen, older": ("\x1b[?47h\x1b[?1048l", "\x1b[m\x1b[2J\x1b8"),
    "full reset": ("\x1b(0\x1bcq", RESET + "\x1b[H\x1b[2Jq"),
    "8-bit CSI": ("\x9b31mred\x9bm", "\x1b[31mred\x1b[m"),
    "8-bit IND, NEL, RI": ("\x84\x85\x8d", "\x1bD\x1bE\x1bM"),
    "8-bit strings": ("a\x9d0;t\x9cb\x90q\x9cc\x98d\x07e", "abce"),
    "strings end with ST": ("a\x1b]0;t\x1b\\b\x1bPq\x1b\\c\x1b^p\x1b\\d\x1b_a\x1b\\e", "abcde"),
    "OSC ends with BEL": ("a\x1b]0;t\x07b", "ab"),
    "a title, as screen has it": ("\x1bktitle\x1b\\$", "$"),
    "strings end with any sequence": ("\x1b]0;t\x1b[mb", "\x1b[mb"),
    "text in strings": ("\x1b]0;é\r\n漢\x1b\\b", "b"),
}

HOSTILE = {
    "clipboard": "\x1b]52;c;cm0gLXJmIC8K\x07",
    "clipboard, read": "\x1b]52;c;?\x1b\\",
    "clipboard, 8-bit": "\x9d52;c;cm0gLXJmIC8K\x9c",
    "clipboard through tmux": "\x1bPtmux;\x1b\x1b]52;c;cm0K\x07\x1b\\",
    "clipboard through screen": "\x1bP\x1b]52;c;cm0K\x07\x1b\\",
    "clipboard, kitty": "\x1b]5522;type=read;Lg==\x1b\\",
    "title": "\x1b]0;evil\x07\x1b]2;evil\x1b\\\x1bkevil\x1b\\",
    "title reported": "\x1b[21t\x1b[20t",
    "title pushed": "\x1b[22;0t\x1b[23;0t",
    "window moved, iconified, resized": "\x1b[3;0;0t\x1b[2t\x1b[8;1;1t\x1b[9;1t",
    "device attributes": "\x1b[c\x1b[0c\x1b[>c\x1b[=c\x1bZ\x9a",
    "device status": "\x1b[5n\x1b[6n\x1b[?6n\x1b[?15n\x1b[?26n",
    "answerback": "\x05",
    "terminal parameters": "\x1b[x\x1b[1x",
    "version": "\x1b[>q\x1b[>0q",
    "mode requests": "\x1b[4$p\x1b[?2004$p",
    "settings requests": "\x1bP$qm\x1b\\\x1bP+q544e\x1b\\",
    "checksum of a rectangle": "\x1b[1;1;1;1;1;1*y",
    "colours asked for": "\x1b]4;1;?\x07\x1b]10;?\x07\x1b]11;?\x1b\\",
    "font asked for": "\x1b]50;?\x07",
    "keyboard protocol": "\x1b[?u\x1b[>1u\x1b[=5;1u\x1b[<u\x1b[1u\x1b[>4;2m\x1b[?4m",
    "mouse": "\x1b[?9h\x1b[?1000h\x1b[?1001h\x1b[?1002h\x1b[?1003h\x1b[?1006h\x1b[1;1;1;1;1T",
    "focus, paste, alternate scroll": "\x1b[?1004h\x1b[?2004h\x1b[?1007h",
    "keys": "\x1b[?1h\x1b[?66h\x1b=\x1b>\x1b[?67h",
    "keyboard locked": "\x1b[2h",
    "line feed mode, echo": "\x1b[20h\x1b[12l",
    "screen mode": "\x1b[?3h\x1b[?5h\x1b[?40h\x1b[?45h\x1b[?69h\x1b[1;5s\x1b[?95h",
    "synchronised for ever": "\x1b[?2026h\x1bP=1s\x1b\\",
    "one number too many": "\x1b[1;1T\x1b[1;1A\x1b[1;1;1H\x1b[1;1;1r\x1b[5s\x1b[1u",
    "modes saved, restored": "\x1b[?1000s\x1b[?1000r",
    "leaves the screen": "\x1b[?1049l\x1b[?47l\x1b[?1047l",
    "full reset": "\x1bc",
    "soft reset": "\x1b[!p",
    "scrollback": "\x1b[3J\x1b[22J\x1b[?3J\x1b[2;3J",
    "printer": "\x1b[i\x1b[5i\x1b[4i\x1b[?5i\x1b]print\x07",
    "charsets": "\x1b(0\x1b)A\x1b*B\x1b+0\x1bn\x1bo\x1b|\x1b}\x1b~\x1bN\x1bO\x0e\x1b%@\x1b%G",
    "national sets": "\x1b-A\x1b.A\x1b/A\x1b(%5\x1b&0",
    "7 and 8 bits": "\x1b F\x1b G",
    "double height": "\x1b#3\x1b#4\x1b#5\x1b#6\x1b#8",
    "tab stops": "\x1bH\x88\x1b[3g\x1b[g\x1b[?5W",
    "cursor style": "\x1b[5 q\x1b[1q",
    "bell": "\x07\x07",
    "palette": "\x1b]4;0;#ffffff\x07\x1b]104\x07\x1b]R\x1b]P0ffffff\x1b\\",
    "hyperlink": "\x1b]8;;file:///etc/passwd\x1b\\click\x1b]8;;\x1b\\",
    "notification": "\x1b]9;evil\x07\x1b]777;notify;a;b\x1b\\\x1b]99;;evil\x1b\\",
    "files, iTerm2": "\x1b]1337;File=name=YQ==;inline=0:YQ==\x07",
    "commands": "\x1b]1337;SetUserVar=a=YQ==\x07\x1b]1337;CopyToClipboard=\x07",
    "graphics": "\x1b_Ga=T,f=100;AAAA\x1b\\\x1bPq#0;2;0;0;0~~\x1b\\\x1b[?1;1;0S",
    "keys redefined": "\x1bP0;1|17/6c730a\x1b\\\x1bP1;1{ab\x1b\\",
    "log file": "\x1b]46;/tmp/evil\x07",
    "unterminated": "\x1b]52;c;cm0K",
    "unterminated sequence": "\x1b[38;5;",
    "strings in one another": "\x1b]0;\x1bP\x1b_\x9d\x90\x1bX\x1b^\x07\x1b\\",
    "cancelled": "\x1b]52;\x18c\x1a;a\x07\x1b[\x186n\x1b[\x1a6n",
    "disguised": "\x1b\x00]52;c;YQ==\x07\x1b[\x006n\x1b\x7f[6n\x1b[6\x07n",
    "split by 8-bit": "\x1b[\x9b6n\x1b\x9b5n\xc2\x9b6n\x9b\x9d52;c;a\x9c",
    "private markers anywhere": "\x1b[1?6n\x1b[?1?2h\x1b[4?h\x1b[<0;1;1M\x1b[>1m",
    "intermediates": "\x1b[1 @\x1b[1 A\x1b[1'}\x1b[1$r\x1b[1 P\x1b[1#{\x1b[1#m",
    "many numbers": "\x1b[" + "1;" * 500 + "m",
    "a long number": "\x1b[" + "9" * 500 + "A\x1b[" + "9" * 100 + "b",
    "reordered": "\u202eevil\u2066\u2069\u200f\u061c\u2028\u2029\ufeff",
    "surrogates": "\ud800\udc80",
    "null, delete": "\x00\x7f",
}


def show(*texts: str) -> str:
    screen = Filter()
    return "".join(map(screen.feed, texts))


@pytest.mark.parametrize(("recorded", "given"), VECTORS.values(), ids=VECTORS)
def test_what_draws_is_passed_on(recorded: str, given: str) -> None:
    assert show(recorded) == given
    assert show(*recorded) == given
    assert show(recorded + "tail\x1b[m") == given + "tail\x1b[m"
    for cut in range(len(recorded)):
        assert show(recorded[:cut], recorded[cut:]) == given
    assert HARMLESS.fullmatch(given)


@pytest.mark.parametrize("recorded", HOSTILE.values(), ids=HOSTILE)
def test_nothing_else_is(recorded: str) -> None:
    for around in ("", "\x1b", "\x1b[", "\x1b[?", "\x9b", "\x1b]0;", "\x1bP"):
        given = show(around + recorded + around + "\r\ntail")
        assert HARMLESS.fullmatch(given), repr(given)
        assert show(*around, *recorded, *around, *"\r\ntail") == given


@pytest.mark.parametrize(
    "name",
    ["clipboard", "clipboard, read", "title", "device attributes", "device status", "answerback",
     "version", "mouse", "keyboard locked", "scrollback", "printer", "tab stops", "bell"],
)  # fmt: skip
def test_most_of_it_leaves_no_trace(name: str) -> None:
    assert show(HOSTILE[name]) == ""


def test_a_sequence_is_remembered_up_to_a_length() -> None:
    fits = "1;" * (MAX_SEQUENCE // 2)
    assert show(f"\x1b[{fits}m") == f"\x1b[{fits}m"
    assert show(f"\x1b[{fits}1ma") == "a"
    screen = Filter()
    screen.feed("\x1b[")
    for _ in range(100):
        screen.feed("1" * 1000)
    assert len(screen._collected) <= MAX_SEQUENCE + 1
    assert screen.feed("ma") == "a"


def test_a_string_without_an_end_does_not_hide_everything() -> None:
    screen = Filter()
    assert screen.feed("\x1b]0;" + "x" * (MAX_STRING - 2 - 1)) == ""
    assert screen.feed("xyz") == "yz"
    assert screen.feed("tail") == "tail"
    assert show("\x1b]0;" + "x" * (MAX_STRING - 2) + "\x9b1m") == "\x1b[1m"


def test_every_character() -> None:
    assigned = (*range(0xA0, 0x20000), *range(0xE0000, 0xE0200), sys.maxunicode)
    everything = "".join(map(chr, assigned))
    given = show(everything)
    assert HARMLESS.fullmatch(given)
    missing = set(everything) - set(given)
    assert {unicodedata.category(char) for char in missing} == {"Cf", "Cs", "Zl", "Zp"}
    assert not missing & set("\u200c\u200d\xa0\u3000\ue0b0")


nasty = st.one_of(
    st.sampled_from([*HOSTILE.values(), *(recorded for recorded, _ in VECTORS.values())]),
    st.text("\x1b\x9b\x9d\x9c\x07\x18\x0e\x0f[]()P?>;:$ 0123456789hlmJKHrtcnqsuT", max_size=12),
    st.text(max_size=5),
)


@given(st.lists(nasty), st.data())
def test_anything_in_any_pieces(recorded: list[str], data: st.DataObject) -> None:
    text = "".join(recorded)
    given = show(text)
    assert HARMLESS.fullmatch(given), repr(given)
    assert show(*recorded) == given
    cut = data.draw(st.integers(0, len(text)))
    assert show(text[:cut], text[cut:]) == given
    assert show(given) == given
