/* A PKCS#11 module that passes every call on to another one, and misbehaves as it is told.
 *
 * SHIM_REAL   the module that does the work
 * SHIM_LOG    a file that gets a line for each call to C_OpenSession, C_Login and C_Sign
 * SHIM_FAULTS words, each one a fault or a property that the real module does not have:
 *   count-low final-try locked no-pin pinpad write-protected
 *   steers-terminal                                            what C_GetTokenInfo says
 *   no-sign always-authenticate bare-point                     what keys say of themselves
 *   already-initialized cant-lock                              how C_Initialize answers
 *   pin-locked pin-expired                                     how C_Login answers
 *   sign-der sign-garbage sign-empty device-removed crash      what C_Sign does
 *   hang-initialize hang-login hang-sign                       which function never returns
 *
 * The layout is that of PKCS#11 2.40, with the packing of Unix. */

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long ulong_t;
typedef unsigned char byte_t;
typedef ulong_t (*function_t)();

enum {
    INITIALIZE = 0, GET_FUNCTION_LIST = 3, GET_TOKEN_INFO = 6, OPEN_SESSION = 12, LOGIN = 18,
    GET_ATTRIBUTE_VALUE = 24, DIGEST_INIT = 37, DIGEST = 38,
    SIGN_INIT = 42, SIGN = 43, SIGN_UPDATE = 44, SIGN_FINAL = 45,
    FUNCTIONS = 68,
};

struct functions { byte_t major, minor; function_t at[FUNCTIONS]; };
struct attribute { ulong_t type; void *value; ulong_t length; };
struct mechanism { ulong_t type; void *parameter; ulong_t length; };
struct token_info { byte_t label[32], manufacturer[32], model[16], serial[16]; ulong_t flags; };

static struct functions *real, ours;

/* The key and the digest of a signature with CKM_ECDSA_SHA256, and whether the PIN was given. */
static ulong_t hashing_key;
static byte_t digest[32];
static int authenticated;

static int told(const char *fault)
{
    const char *faults = getenv("SHIM_FAULTS");
    size_t length = strlen(fault);
    for (const char *at = faults; at && (at = strstr(at, fault)); at += length) {
        int begins = at == faults || at[-1] == ' ';
        int ends = at[length] == 0 || at[length] == ' ';
        if (begins && ends) return 1;
    }
    return 0;
}

static void record(const char *call)
{
    FILE *log = getenv("SHIM_LOG") ? fopen(getenv("SHIM_LOG"), "a") : NULL;
    if (!log) return;
    fprintf(log, "%s\n", call);
    fclose(log);
}

static void hang_if_told(const char *fault)
{
    if (!told(fault)) return;
    record(fault);
    for (;;) pause();
}

static ulong_t initialize(void *arguments)
{
    hang_if_told("hang-initialize");
    ulong_t flags = ((ulong_t *)arguments)[4];
    if (told("cant-lock") && (flags & 2)) return 0xa;
    ulong_t result = real->at[INITIALIZE](arguments);
    return told("already-initialized") ? 0x191 : result;
}

static ulong_t get_token_info(ulong_t slot, struct token_info *info)
{
    ulong_t result = real->at[GET_TOKEN_INFO](slot, info);
    if (told("write-protected")) info->flags |= 0x2;
    if (told("no-pin")) info->flags &= ~0x8ul;
    if (told("no-login")) info->flags &= ~0x4ul;
    if (told("pinpad")) info->flags |= 0x100;
    if (told("count-low")) info->flags |= 0x10000;
    if (told("final-try")) info->flags |= 0x20000;
    if (told("locked")) info->flags |= 0x40000;
    if (told("steers-terminal")) {
        memcpy(info->manufacturer, "\033[2J", 4);
        memcpy(info->model, "\033[2J", 4);
        memcpy(info->serial, "\033[2J            ", 16);
    }
    return result;
}

static ulong_t open_session(ulong_t slot, ulong_t flags, void *application, function_t notify,
                            ulong_t *session)
{
    record("C_OpenSession");
    ulong_t result = real->at[OPEN_SESSION](slot, flags, application, notify, session);
    if (told("no-login")) real->at[LOGIN](*session, 1ul, "1234", 4ul);
    return result;
}

static ulong_t login(ulong_t session, ulong_t user, byte_t *pin, ulong_t length)
{
    record(pin ? "C_Login" : "C_Login on the keypad");
    hang_if_told("hang-login");
    if (told("pin-expired")) return 0xa3;
    if (told("pin-locked")) return 0xa4;
    if (user == 2) {
        authenticated = length == 4 && memcmp(pin, "1234", 4) == 0;
        return authenticated ? 0 : 0xa0;
    }
    if (!pin) return real->at[LOGIN](session, user, "1234", 4ul);
    return real->at[LOGIN](session, user, pin, length);
}

static ulong_t get_attribute_value(ulong_t session, ulong_t object, struct attribute *attributes,
                                   ulong_t count)
{
    ulong_t result = 0;
    for (ulong_t i = 0; i < count; i++) {
        struct attribute *attribute = &attributes[i], whole = *attribute;
        byte_t point[67];
        int is_bare = told("bare-point") && attribute->type == 0x181;
        if (is_bare && whole.value) {
            whole.value = point;
            whole.length = sizeof point;
        }
        ulong_t one = real->at[GET_ATTRIBUTE_VALUE](session, object, &whole, 1ul);
        if (one) result = one;
        attribute->length = whole.length;
        if (is_bare && one == 0) {
            attribute->length -= 2;
            if (attribute->value) memcpy(attribute->value, point + 2, attribute->length);
        }
        if (one == 0 && attribute->value) {
            if (told("no-sign") && attribute->type == 0x108) *(byte_t *)attribute->value = 0;
            if (told("always-authenticate") && attribute->type == 0x202)
                *(byte_t *)attribute->value = 1;
        }
    }
    return result;
}

static ulong_t sign_init(ulong_t session, struct mechanism *mechanism, ulong_t key)
{
    hashing_key = mechanism->type == 0x1044 ? key : 0;
    authenticated = 0;
    return hashing_key ? 0 : real->at[SIGN_INIT](session, mechanism, key);
}

static ulong_t sign_update(ulong_t session, byte_t *data, ulong_t length)
{
    struct mechanism sha256 = { 0x250, NULL, 0 };
    ulong_t digest_length = sizeof digest;
    if (!hashing_key || !authenticated) return 0x101;
    real->at[DIGEST_INIT](session, &sha256);
    return real->at[DIGEST](session, data, length, digest, &digest_length);
}

static ulong_t sign_final(ulong_t session, byte_t *signature, ulong_t *length)
{
    struct mechanism ecdsa = { 0x1041, NULL, 0 };
    if (!authenticated) return 0x101;
    if (!signature) {
        *length = 64;
        return 0;
    }
    real->at[SIGN_INIT](session, &ecdsa, hashing_key);
    return real->at[SIGN](session, digest, sizeof digest, signature, length);
}

/* The DER of r = s = 1. */
static const byte_t der[] = { 0x30, 6, 2, 1, 1, 2, 1, 1 };

static ulong_t sign(ulong_t session, byte_t *data, ulong_t length, byte_t *signature,
                    ulong_t *signature_length)
{
    hang_if_told("hang-sign");
    if (told("device-removed")) return 0x32;
    if (told("crash")) abort();
    ulong_t result = real->at[SIGN](session, data, length, signature, signature_length);
    if (!signature) return result;
    record("C_Sign");
    if (told("sign-empty")) *signature_length = 0;
    if (told("sign-garbage")) memset(signature, 'x', *signature_length);
    if (told("sign-der")) {
        memcpy(signature, der, sizeof der);
        *signature_length = sizeof der;
    }
    return result;
}

ulong_t C_GetFunctionList(struct functions **list)
{
    void *module = dlopen(getenv("SHIM_REAL"), RTLD_NOW);
    function_t get = module ? (function_t)dlsym(module, "C_GetFunctionList") : NULL;
    if (!get || get(&real)) return 0x5;
    ours = *real;
    ours.at[INITIALIZE] = initialize;
    ours.at[GET_TOKEN_INFO] = get_token_info;
    ours.at[OPEN_SESSION] = open_session;
    ours.at[LOGIN] = login;
    ours.at[GET_ATTRIBUTE_VALUE] = get_attribute_value;
    ours.at[SIGN] = sign;
    if (told("always-authenticate")) {
        ours.at[SIGN_INIT] = sign_init;
        ours.at[SIGN_UPDATE] = sign_update;
        ours.at[SIGN_FINAL] = sign_final;
    }
    *list = &ours;
    return 0;
}
