#ifndef GODWIT_CZSTD_H
#define GODWIT_CZSTD_H

#include <zstd.h>

#endif
