/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/cli/lazy.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

int lazy_load(const char *soname, const char *package,
	      const struct lazy_symbol *symbols, size_t n, void *table,
	      char *err, size_t errlen)
{
	void *lib = dlopen(soname, RTLD_NOW | RTLD_LOCAL);

	if (!lib) {
		snprintf(err, errlen, "%s cannot be loaded; install %s", soname,
			 package);
		return -ENOENT;
	}
	for (size_t i = 0; i < n; i++) {
		void *p = dlsym(lib, symbols[i].name);

		if (!p) {
			snprintf(err, errlen,
				 "%s has no %s; install a newer %s", soname,
				 symbols[i].name, package);
			dlclose(lib);
			return -ENOENT;
		}
		memcpy((char *)table + symbols[i].offset, &p, sizeof(p));
	}
	return 0;
}
