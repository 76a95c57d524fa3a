/* Gives wrk a client certificate: preloaded, it loads the one that the environment names into each new SSL context.
   A second hook makes every new connection a full handshake: wrk reuses its SSL objects, and with them the session. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>

enum { FILETYPE_PEM = 1 };

extern int SSL_CTX_use_certificate_chain_file(void *context, const char *file);
extern int SSL_CTX_use_PrivateKey_file(void *context, const char *file, int type);
extern int SSL_set_session(void *ssl, void *session);

void *SSL_CTX_new(const void *method) {
    void *(*original)(const void *) = (void *(*)(const void *))dlsym(RTLD_NEXT, "SSL_CTX_new");
    const char *certificate = getenv("BENCH_CERTIFICATE"), *key = getenv("BENCH_PRIVATE_KEY");
    void *context = original(method);
    if (!certificate || !key) return context;
    if (SSL_CTX_use_certificate_chain_file(context, certificate) != 1) abort();
    if (SSL_CTX_use_PrivateKey_file(context, key, FILETYPE_PEM) != 1) abort();
    return context;
}

int SSL_clear(void *ssl) {
    int (*original)(void *) = (int (*)(void *))dlsym(RTLD_NEXT, "SSL_clear");
    SSL_set_session(ssl, NULL);
    return original(ssl);
}
