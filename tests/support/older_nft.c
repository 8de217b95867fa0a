/* A libnftables that knows less: all calls go to the real library, but scripts with a word of a later nft are refused
 * as an older one refuses them, with a syntax error. Real older libraries do not run on the systems we test on.
 *
 *     gcc -shared -fPIC -DREAL='"/usr/lib/…/libnftables.so.1"' -DLACKS='"jhash"' -o libnftables.so.1 older_nft.c
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <string.h>

typedef long (*call)(long, long, long);

static call real(const char *name)
{
	static void *library;

	if (!library)
		library = dlopen(REAL, RTLD_NOW | RTLD_LOCAL);
	return (call)dlsym(library, name);
}

#define FORWARD(name) long name(long a, long b, long c) { return real(#name)(a, b, c); }

FORWARD(nft_ctx_new)
FORWARD(nft_ctx_free)
FORWARD(nft_ctx_buffer_output)
FORWARD(nft_ctx_buffer_error)
FORWARD(nft_ctx_get_output_buffer)
FORWARD(nft_ctx_output_get_flags)
FORWARD(nft_ctx_output_set_flags)
FORWARD(nft_ctx_output_get_debug)
FORWARD(nft_ctx_output_set_debug)
FORWARD(nft_ctx_set_dry_run)

static int lacking;

long nft_run_cmd_from_buffer(long context, const char *script)
{
	lacking = strstr(script, LACKS) != NULL;
	return lacking ? -1 : real("nft_run_cmd_from_buffer")(context, (long)script, 0);
}

const char *nft_ctx_get_error_buffer(long context)
{
	if (lacking)
		return "Error: syntax error, unexpected " LACKS "\n";
	return (const char *)real("nft_ctx_get_error_buffer")(context, 0, 0);
}
