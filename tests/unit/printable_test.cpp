#include "base/printable.h"

#include <doctest/doctest.h>

using namespace synergy;

TEST_CASE("printable: what can be shown stays, and the rest is written out") {
    CHECK(printable("plain", 5) == "plain");
    CHECK(printable("a\x1b[2J\nb\x7f", 99) == "a\\x1b[2J\\x0ab\\x7f");
    CHECK(printable("J\xc3\xb4me \xe2\x82\xac \xf0\x9f\x98\x80", 99) ==
          "J\xc3\xb4me \xe2\x82\xac \xf0\x9f\x98\x80");
    CHECK(printable("\xc2\x9b", 99) == "\\xc2\\x9b");          // a control character (CSI)
    CHECK(printable("\xed\xa0\x80", 99) == "\\xed\\xa0\\x80"); // a surrogate
    CHECK(printable("\xc3", 99) == "\\xc3");                   // cut off
    CHECK(printable(std::string_view("a\0b", 3), 99) == "a\\x00b");
}

TEST_CASE("printable: a long text is cut off between characters") {
    CHECK(printable("abc", 2) == "ab...");
    CHECK(printable("\xe2\x82\xac\xe2\x82\xac", 3) == "\xe2\x82\xac...");
    CHECK(printable("\xe2\x82\xac\xe2\x82\xac", 1) == "\xe2\x82\xac...");
}

TEST_CASE("printable: of a stranger's text nothing but ASCII is shown") {
    CHECK(printable_ascii("router-1.example.net") == "router-1.example.net");
    CHECK(printable_ascii("a\xc3\x9b"
                          "31m\x1b") == "a\\xc3\\x9b31m\\x1b");
    CHECK(printable_ascii("\xe2\x80\xae") == "\\xe2\\x80\\xae"); // from right to left
}
