#ifndef GODWIT_CXXHASH_H
#define GODWIT_CXXHASH_H

#include <xxhash.h>

#endif
