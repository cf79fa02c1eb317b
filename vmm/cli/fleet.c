/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/cli/fleet.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/cli/disks.h"
#include "vmm/cli/nets.h"
#include "vmm/cli/options.h"

#define FILE_MAX (1 << 20)

struct load {
	const char *path;
	unsigned line; /* 0: JSON, item below */
	unsigned item;
	const struct vm_spec *like;
	struct fleet *f;
	char *err;
	size_t errlen;
};

__attribute__((format(printf, 2, 3))) static int bad(struct load *l,
						     const char *fmt, ...)
{
	va_list ap;
	int n;

	n = snprintf(l->err, l->errlen, "%s: %s %u: ", l->path,
		     l->line ? "line" : "VM", l->line ? l->line : l->item);
	if (n < 0 || (size_t)n >= l->errlen)
		return -EINVAL;
	va_start(ap, fmt);
	vsnprintf(l->err + n, l->errlen - (size_t)n, fmt, ap);
	va_end(ap);
	return -EINVAL;
}

static bool good_name(const char *s)
{
	size_t n = strlen(s);

	if (!n || n > FLEET_NAME_MAX || *s == '.' || *s == '-')
		return false;
	for (; *s; s++)
		if (!isascii(*s) || (!isalnum(*s) && !strchr("._-", *s)))
			return false;
	return true;
}

static void spec_free(struct vm_spec *s)
{
	free(s->kernel);
	free(s->initrd);
	free(s->append);
	free(s->net);
	strlist_free(&s->disks);
}

static int spec_copy(struct vm_spec *to, const struct vm_spec *from)
{
	*to = *from;
	to->kernel = from->kernel ? strdup(from->kernel) : NULL;
	to->initrd = from->initrd ? strdup(from->initrd) : NULL;
	to->append = from->append ? strdup(from->append) : NULL;
	to->net = from->net ? strdup(from->net) : NULL;
	if (strlist_copy(&to->disks, from->disks) ||
	    (from->kernel && !to->kernel) || (from->initrd && !to->initrd) ||
	    (from->append && !to->append) || (from->net && !to->net)) {
		spec_free(to);
		return -ENOMEM;
	}
	return 0;
}

static int append_vm(struct fleet *f, const struct vm_spec *s, const char *name)
{
	struct vm_spec *v;

	for (size_t i = 0; i < f->n; i++)
		if (!strcmp(f->vms[i].name, name))
			return -EEXIST;
	if (f->n == FLEET_MAX)
		return -E2BIG;
	v = realloc(f->vms, (f->n + 1) * sizeof(*v));
	if (!v)
		return -ENOMEM;
	f->vms = v;
	if (spec_copy(&v[f->n], s))
		return -ENOMEM;
	snprintf(v[f->n].name, sizeof(v->name), "%s", name);
	f->n++;
	return 0;
}

int fleet_uniform(const struct vm_spec *like, uint32_t n, struct fleet *f,
		  char *err, size_t errlen)
{
	char name[FLEET_NAME_MAX + 1];

	memset(f, 0, sizeof(*f));
	if (!n || n > FLEET_MAX) {
		snprintf(err, errlen, "-n %u: give a number from 1 to %d", n,
			 FLEET_MAX);
		return -EINVAL;
	}
	for (uint32_t i = 0; i < n; i++) {
		snprintf(name, sizeof(name), "vm%u", i);
		if (append_vm(f, like, name)) {
			fleet_free(f);
			snprintf(err, errlen, "out of memory");
			return -ENOMEM;
		}
	}
	return 0;
}

/* ---- one VM's description ---- */

static int set_string(char **to, const char *val)
{
	free(*to);
	*to = strdup(val);
	return *to ? 0 : -ENOMEM;
}

static int add_disk(struct load *l, struct vm_spec *s, const char *val)
{
	struct disk_config *d;
	char err[256];
	unsigned n;

	if (!s->own_disks)
		strlist_free(&s->disks);
	s->own_disks = true;
	if (strlist_add(&s->disks, val))
		return bad(l, "out of memory");
	if (disks_parse(s->disks, "x", &d, &n, err, sizeof(err)))
		return bad(l, "%s", err);
	disks_free(d, n);
	return 0;
}

static int set_net(struct load *l, struct vm_spec *s, const char *val)
{
	struct net_spec n;
	char err[256];

	if (!strcmp(val, "none")) {
		free(s->net);
		s->net = NULL;
		return 0;
	}
	if (net_parse(val, "x", &n, err, sizeof(err)))
		return bad(l, "%s", err);
	net_spec_free(&n);
	return set_string(&s->net, val);
}

static int set_key(struct load *l, struct vm_spec *s, uint32_t *count,
		   const char *key, const char *val)
{
	char *end;

	if (!strcmp(key, "kernel"))
		return set_string(&s->kernel, val);
	if (!strcmp(key, "initrd"))
		return set_string(&s->initrd, val);
	if (!strcmp(key, "append"))
		return set_string(&s->append, val);
	if (!strcmp(key, "disk"))
		return add_disk(l, s, val);
	if (!strcmp(key, "net"))
		return set_net(l, s, val);
	if (!strcmp(key, "rng")) {
		s->rng = !strcmp(val, "yes");
		if (!s->rng && strcmp(val, "no"))
			return bad(l, "rng=%s: write yes or no", val);
		return 0;
	}
	if (!strcmp(key, "balloon")) {
		s->no_balloon = !strcmp(val, "off");
		if (!s->no_balloon && strcmp(val, "on"))
			return bad(l, "balloon=%s: write on or off", val);
		return 0;
	}
	if (!strcmp(key, "mem")) {
		if (size_parse(val, &s->mem))
			return bad(l, "mem=%s: not a size; write it as 128M",
				   val);
		return 0;
	}
	if (!strcmp(key, "mem.min") || !strcmp(key, "mem.max")) {
		if (size_parse(val, key[5] == 'i' ? &s->mem_min : &s->mem_max))
			return bad(l, "%s=%s: not a size; write it as 128M",
				   key, val);
		return 0;
	}
	if (!strcmp(key, "mem.shares")) {
		s->mem_shares = strtoull(val, &end, 10);
		if (!isdigit(*val) || *end || !s->mem_shares ||
		    s->mem_shares > 1000000)
			return bad(l,
				   "mem.shares=%s: give a number from 1 to "
				   "1000000",
				   val);
		return 0;
	}
	if (!strcmp(key, "group")) {
		if (!good_name(val))
			return bad(l,
				   "group=%s: use 1 to %d letters, digits, "
				   "'.', '_', '-'",
				   val, FLEET_NAME_MAX);
		snprintf(s->group, sizeof(s->group), "%s", val);
		return 0;
	}
	if (!strcmp(key, "backing")) {
		if (backing_parse(val, &s->backing))
			return bad(l, "backing=%s: use auto, 4k or 2m", val);
		return 0;
	}
	if (!strcmp(key, "count")) {
		unsigned long c = strtoul(val, &end, 10);

		if (!isdigit(*val) || *end || !c || c > FLEET_MAX)
			return bad(l, "count=%s: give a number from 1 to %d",
				   val, FLEET_MAX);
		*count = (uint32_t)c;
		return 0;
	}
	return bad(l,
		   "%s: no such key; there are name, kernel, initrd, mem, "
		   "append, group, backing, count, disk, net, rng, balloon, "
		   "mem.min, mem.max, mem.shares",
		   key);
}

/* count 0: one VM of just that name. */
static int add_spec(struct load *l, const struct vm_spec *s, const char *name,
		    uint32_t count)
{
	char full[FLEET_NAME_MAX + 16];
	uint32_t n = count ? count : 1;

	if (!s->kernel)
		return bad(l, "%s has no kernel; add kernel=FILE or --kernel",
			   name);
	for (uint32_t i = 0; i < n; i++) {
		int r;

		snprintf(full, sizeof(full), count ? "%.40s%u" : "%.40s", name,
			 i);
		if (!good_name(full))
			return bad(l,
				   "%s: not a name; use 1 to %d letters, "
				   "digits, '.', '_', '-'",
				   full, FLEET_NAME_MAX);
		r = append_vm(l->f, s, full);
		if (r == -EEXIST)
			return bad(l, "%s: a VM of this name is there already",
				   full);
		if (r == -E2BIG)
			return bad(l, "more than %d VMs; split the fleet",
				   FLEET_MAX);
		if (r)
			return bad(l, "out of memory");
	}
	return 0;
}

/* ---- text ---- */

/* The next word of *p, in place; "..." inside it may hold spaces and loses its
 * quotes. NULL at the end of the line; an unclosed quote sets *open. */
static char *word(char **p, bool *open)
{
	char *s = *p, *w, *to;
	bool quoted = false;

	s += strspn(s, " \t\r");
	if (!*s || *s == '#')
		return NULL;
	for (w = to = s; *s && (quoted || !strchr(" \t\r", *s)); s++) {
		if (*s == '"')
			quoted = !quoted;
		else
			*to++ = *s;
	}
	*open = quoted;
	*p = *s ? s + 1 : s;
	*to = '\0';
	return w;
}

static int text_line(struct load *l, char *line)
{
	struct vm_spec s;
	uint32_t count = 0;
	bool open = false;
	char *name = word(&line, &open), *w;
	int r = 0;

	if (!name)
		return 0;
	if (spec_copy(&s, l->like))
		return bad(l, "out of memory");
	while (!r && !open && (w = word(&line, &open))) {
		char *eq = strchr(w, '=');

		if (!eq) {
			r = bad(l, "%s: write KEY=VALUE", w);
			break;
		}
		*eq = '\0';
		r = set_key(l, &s, &count, w, eq + 1);
	}
	if (!r && open)
		r = bad(l, "a quote is not closed");
	if (!r)
		r = add_spec(l, &s, name, count);
	spec_free(&s);
	return r;
}

static int parse_text(struct load *l, char *text)
{
	char *next;

	for (; text; text = next) {
		int r;

		l->line++;
		next = strchr(text, '\n');
		if (next)
			*next++ = '\0';
		r = text_line(l, text);
		if (r)
			return r;
	}
	return 0;
}

/* ---- JSON ---- */

static int json_disks(struct load *l, struct vm_spec *s, json_t *list)
{
	int r = 0;

	for (size_t i = 0; !r && i < json_array_size(list); i++) {
		const char *text = json_string_value(json_array_get(list, i));

		r = text ? add_disk(l, s, text)
			 : bad(l, "\"disk\" must hold texts");
	}
	return r;
}

static int json_vm(struct load *l, json_t *o)
{
	const char *key, *name = NULL;
	struct vm_spec s;
	uint32_t count = 0;
	json_t *val;
	int r = 0;

	if (!json_is_object(o))
		return bad(l, "is not an object; write {\"name\": ...}");
	if (spec_copy(&s, l->like))
		return bad(l, "out of memory");
	json_object_foreach(o, key, val)
	{
		char num[24];
		const char *text = json_string_value(val);

		if (json_is_integer(val)) {
			snprintf(num, sizeof(num), "%" JSON_INTEGER_FORMAT,
				 json_integer_value(val));
			text = num;
		}
		if (json_is_array(val) && !strcmp(key, "disk"))
			r = json_disks(l, &s, val);
		else if (!text)
			r = bad(l, "\"%s\" must be text or a number", key);
		else if (!strcmp(key, "name"))
			name = json_string_value(val);
		else
			r = set_key(l, &s, &count, key, text);
		if (r)
			break;
	}
	if (!r && !name)
		r = bad(l, "has no \"name\"");
	if (!r)
		r = add_spec(l, &s, name, count);
	spec_free(&s);
	return r;
}

static int parse_json(struct load *l, const char *text, size_t len)
{
	json_error_t e;
	json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &e);
	json_t *list =
		json_is_object(root) ? json_object_get(root, "vms") : root;
	int r = 0;

	if (!root) {
		l->line = e.line > 0 ? (unsigned)e.line : 1;
		return bad(l, "not JSON: %s", e.text);
	}
	if (!json_is_array(list)) {
		l->line = 1;
		r = bad(l, "no list of VMs; write [{\"name\": ...}, ...]");
	}
	for (size_t i = 0; !r && i < json_array_size(list); i++) {
		l->item = (unsigned)i + 1;
		r = json_vm(l, json_array_get(list, i));
	}
	json_decref(root);
	return r;
}

/* ---- */

int fleet_parse(const char *path, char *text, size_t len,
		const struct vm_spec *like, struct fleet *f, char *err,
		size_t errlen)
{
	struct load l = {.path = path,
			 .like = like,
			 .f = f,
			 .err = err,
			 .errlen = errlen};
	char *first = text + strspn(text, " \t\r\n");
	int r;

	memset(f, 0, sizeof(*f));
	if (strlen(text) != len) {
		snprintf(err, errlen,
			 "%s: holds a zero byte; give a text or JSON file",
			 path);
		return -EINVAL;
	}
	if (*first == '[' || *first == '{')
		r = parse_json(&l, text, len);
	else
		r = parse_text(&l, text);
	if (!r && !f->n) {
		snprintf(err, errlen, "%s: names no VM; write one a line",
			 path);
		r = -EINVAL;
	}
	if (r)
		fleet_free(f);
	return r;
}

int fleet_load(const char *path, const struct vm_spec *like, struct fleet *f,
	       char *err, size_t errlen)
{
	FILE *file = fopen(path, "re");
	char *text = malloc(FILE_MAX + 1);
	size_t len;
	int r = 0;

	memset(f, 0, sizeof(*f));
	if (!file || !text) {
		snprintf(err, errlen, "%s: %s; give a fleet file or -n N", path,
			 strerror(errno));
		r = -EINVAL;
		goto out;
	}
	len = fread(text, 1, FILE_MAX + 1, file);
	if (ferror(file)) {
		snprintf(err, errlen, "%s: %s; give a fleet file or -n N", path,
			 strerror(errno));
		r = -EINVAL;
	} else if (len > FILE_MAX) {
		snprintf(err, errlen, "%s: larger than 1 MiB; split the fleet",
			 path);
		r = -EINVAL;
	} else {
		text[len] = '\0';
		r = fleet_parse(path, text, len, like, f, err, errlen);
	}
out:
	if (file)
		fclose(file);
	free(text);
	return r;
}

void fleet_free(struct fleet *f)
{
	for (size_t i = 0; i < f->n; i++)
		spec_free(&f->vms[i]);
	free(f->vms);
	memset(f, 0, sizeof(*f));
}
