/* For the library's variables that more than one of its files sees: said at the declaration, too,
 * it saves each look at them an instruction (the compiler's -fvisibility is about definitions). */
#pragma once

#define OWN __attribute__((visibility("hidden")))
