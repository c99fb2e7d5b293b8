#ifndef GODWIT_CLIBPQ_H
#define GODWIT_CLIBPQ_H

#include <libpq-fe.h>

#endif
