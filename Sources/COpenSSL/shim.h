#ifndef GODWIT_COPENSSL_H
#define GODWIT_COPENSSL_H

#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>

/* What Swift cannot import: OpenSSL's macros, and the BIO between a TLS connection and our buffers. */

/* ---- the wire: ciphertext of whichever connection of a thread is at work ---- */

typedef struct godwit_tls_wire {
    const unsigned char *input;  /* received and not decrypted yet */
    size_t input_count;
    unsigned char *output;       /* encrypted and not sent yet */
    size_t output_count;
    size_t output_capacity;
} godwit_tls_wire;

/* More than one handshake flight or one slice that is encrypted at once can need. */
#define GODWIT_TLS_OUTPUT_MAX (1 << 20)

static int godwit_wire_read(BIO *bio, char *into, int most) {
    godwit_tls_wire *wire = (godwit_tls_wire *)BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    if (most <= 0) return 0;
    size_t count = wire->input_count < (size_t)most ? wire->input_count : (size_t)most;
    if (count == 0) {
        BIO_set_retry_read(bio);
        return -1;
    }
    memcpy(into, wire->input, count);
    wire->input += count;
    wire->input_count -= count;
    return (int)count;
}

static int godwit_wire_write(BIO *bio, const char *bytes, int count) {
    godwit_tls_wire *wire = (godwit_tls_wire *)BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    if (count <= 0) return 0;
    size_t needed = wire->output_count + (size_t)count;
    if (needed > wire->output_capacity) {
        size_t capacity = wire->output_capacity ? wire->output_capacity : 4096;
        while (capacity < needed) capacity *= 2;
        unsigned char *larger =
            capacity > GODWIT_TLS_OUTPUT_MAX ? NULL : (unsigned char *)realloc(wire->output, capacity);
        if (larger == NULL) return -1;
        wire->output = larger;
        wire->output_capacity = capacity;
    }
    memcpy(wire->output + wire->output_count, bytes, (size_t)count);
    wire->output_count = needed;
    return count;
}

static long godwit_wire_control(BIO *bio, int command, long number, void *pointer) {
    (void)bio;
    (void)number;
    (void)pointer;
    return command == BIO_CTRL_FLUSH ? 1 : 0;
}

static inline BIO_METHOD *godwit_wire_method(void) {
    BIO_METHOD *method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "godwit wire");
    if (method == NULL) return NULL;
    BIO_meth_set_read(method, godwit_wire_read);
    BIO_meth_set_write(method, godwit_wire_write);
    BIO_meth_set_ctrl(method, godwit_wire_control);
    return method;
}

/* A connection that reads from and writes to `wire`; NULL when there is no memory. */
static inline SSL *godwit_tls_new(SSL_CTX *context, const BIO_METHOD *method, godwit_tls_wire *wire) {
    SSL *tls = SSL_new(context);
    BIO *bio = BIO_new(method);
    if (tls == NULL || bio == NULL) {
        SSL_free(tls);
        BIO_free(bio);
        return NULL;
    }
    BIO_set_data(bio, wire);
    BIO_set_init(bio, 1);
    SSL_set_bio(tls, bio, bio);
    return tls;
}

/* It reads from and writes to another `wire` from now on. */
static inline void godwit_tls_move(SSL *tls, godwit_tls_wire *wire) {
    BIO_set_data(SSL_get_rbio(tls), wire);
}

/* ---- contexts ---- */

/* Never asks on the terminal: `secret` is the passphrase, or NULL. */
static int godwit_passphrase(char *into, int most, int is_writing, void *secret) {
    (void)is_writing;
    if (secret == NULL) return -1;
    size_t count = strlen((const char *)secret);
    if (count > (size_t)most) return -1;
    memcpy(into, secret, count);
    return (int)count;
}

/* `passphrase` must live until the context's files have been read. */
static inline void godwit_context_passphrase(SSL_CTX *context, char *passphrase) {
    SSL_CTX_set_default_passwd_cb(context, godwit_passphrase);
    SSL_CTX_set_default_passwd_cb_userdata(context, passphrase);
}

static const unsigned char godwit_alpn[] = {10, 'p', 'o', 's', 't', 'g', 'r', 'e', 's', 'q', 'l'};

/* A client that offers protocols must offer ours, or gets the alert no_application_protocol (RFC 7301, 3.2). */
static int godwit_alpn_select(
    SSL *tls, const unsigned char **out, unsigned char *out_count, const unsigned char *in, unsigned int in_count,
    void *unused) {
    (void)tls;
    (void)unused;
    unsigned char *chosen = NULL;
    int result = SSL_select_next_proto(&chosen, out_count, godwit_alpn, sizeof godwit_alpn, in, in_count);
    *out = chosen;
    return result == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_ALERT_FATAL;
}

static const unsigned char godwit_alpn_http[] = {8, 'h', 't', 't', 'p', '/', '1', '.', '1'};

/* Clients that offer HTTP/1.1 are told that it is spoken; with the others it is what they expect or fail at. */
static int godwit_alpn_select_http(
    SSL *tls, const unsigned char **out, unsigned char *out_count, const unsigned char *in, unsigned int in_count,
    void *unused) {
    (void)tls;
    (void)unused;
    unsigned char *chosen = NULL;
    int result = SSL_select_next_proto(&chosen, out_count, godwit_alpn_http, sizeof godwit_alpn_http, in, in_count);
    *out = chosen;
    return result == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_ALERT_FATAL;
}

/* Direct TLS without ALPN may be a request that was meant for a server of another protocol (ALPACA). */
static int godwit_client_hello(SSL *tls, int *alert, void *unused) {
    (void)unused;
    const unsigned char *extension = NULL;
    size_t count = 0;
    if (SSL_get_app_data(tls) == NULL) return SSL_CLIENT_HELLO_SUCCESS;
    if (SSL_client_hello_get0_ext(
            tls, TLSEXT_TYPE_application_layer_protocol_negotiation, &extension, &count)) {
        return SSL_CLIENT_HELLO_SUCCESS;
    }
    *alert = SSL_AD_NO_APPLICATION_PROTOCOL;
    return SSL_CLIENT_HELLO_ERROR;
}

/* The certificate is judged by its chain here; what must be there at all is the owner's rule. */
static inline void godwit_context_common(SSL_CTX *context) {
    SSL_CTX_set_mode(
        context, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_options(
        context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_TICKET | SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE
            | SSL_OP_SINGLE_ECDH_USE | SSL_OP_SINGLE_DH_USE);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_num_tickets(context, 0);
}

static inline void godwit_context_serve(SSL_CTX *context) {
    SSL_CTX_set_alpn_select_cb(context, godwit_alpn_select, NULL);
    SSL_CTX_set_client_hello_cb(context, godwit_client_hello, NULL);
    (void)SSL_CTX_set_dh_auto(context, 1);
}

static inline void godwit_context_serve_http(SSL_CTX *context) {
    SSL_CTX_set_alpn_select_cb(context, godwit_alpn_select_http, NULL);
    (void)SSL_CTX_set_dh_auto(context, 1);
}

static inline int godwit_context_alpn(SSL_CTX *context) {
    return SSL_CTX_set_alpn_protos(context, godwit_alpn, sizeof godwit_alpn) == 0;
}

static inline void godwit_require_alpn(SSL *tls) { SSL_set_app_data(tls, (void *)godwit_alpn); }

static inline int godwit_context_versions(SSL_CTX *context, int least, int most) {
    return SSL_CTX_set_min_proto_version(context, least) && SSL_CTX_set_max_proto_version(context, most);
}

static inline int godwit_set_server_name(SSL *tls, const char *name) {
    return (int)SSL_set_tlsext_host_name(tls, name);
}

static inline int godwit_crl_check(SSL_CTX *context, const char *file, const char *directory) {
    X509_STORE *store = SSL_CTX_get_cert_store(context);
    if (X509_STORE_load_locations(store, file, directory) != 1) return 0;
    return X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL);
}

/* ---- errors ---- */

static inline int godwit_error_library(unsigned long code) { return ERR_GET_LIB(code); }
static inline int godwit_error_reason(unsigned long code) { return ERR_GET_REASON(code); }

/* ---- certificates ---- */

static inline int godwit_names_count(const GENERAL_NAMES *names) { return sk_GENERAL_NAME_num(names); }

/* 'D': a DNS name, 'I': an address of 4 or 16 bytes, 0: a name of another kind. */
static inline int godwit_name(const GENERAL_NAMES *names, int index, const unsigned char **bytes, int *count) {
    const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, index);
    const ASN1_STRING *text = NULL;
    if (name->type == GEN_DNS) text = name->d.dNSName;
    if (name->type == GEN_IPADD) text = name->d.iPAddress;
    if (text == NULL) return 0;
    *bytes = ASN1_STRING_get0_data(text);
    *count = ASN1_STRING_length(text);
    return name->type == GEN_DNS ? 'D' : 'I';
}

static inline GENERAL_NAMES *godwit_subject_names(const X509 *certificate) {
    return (GENERAL_NAMES *)X509_get_ext_d2i(certificate, NID_subject_alt_name, NULL, NULL);
}

static inline void godwit_names_free(GENERAL_NAMES *names) { GENERAL_NAMES_free(names); }

/* The hash of tls-server-end-point (RFC 5929, 4.1): that of the signature, SHA-256 instead of MD5 and SHA-1.
   0: the signature's algorithm has none. */
static inline unsigned int godwit_endpoint_digest(const X509 *certificate, unsigned char *into) {
    int algorithm = NID_undef;
    unsigned int count = 0;
    if (!X509_get_signature_info((X509 *)certificate, &algorithm, NULL, NULL, NULL)) return 0;
    const EVP_MD *digest = NULL;
    if (algorithm == NID_md5 || algorithm == NID_sha1) {
        digest = EVP_sha256();
    } else if (algorithm != NID_undef) {
        digest = EVP_get_digestbynid(algorithm);
    }
    if (digest == NULL || !X509_digest(certificate, digest, into, &count)) return 0;
    return count;
}

static inline int godwit_print_name(BIO *into, const X509_NAME *name) {
    return X509_NAME_print_ex(into, name, 0, XN_FLAG_RFC2253);
}

/* The certificate's end, in seconds since 1970. */
static inline long long godwit_ends_at(const X509 *certificate) {
    int days = 0, seconds = 0;
    ASN1_TIME *epoch = ASN1_TIME_set(NULL, 0);
    int is_known = epoch && ASN1_TIME_diff(&days, &seconds, epoch, X509_get0_notAfter(certificate));
    ASN1_TIME_free(epoch);
    return is_known ? (long long)days * 86400 + seconds : 0;
}

static inline int godwit_has_begun(const X509 *certificate) {
    return X509_cmp_current_time(X509_get0_notBefore(certificate)) < 0;
}

#endif
