/* A PKCS#11 module that passes every call on to SoftHSM2, and fails some of them on request.
 *
 * Compiled and driven by tests/support/softhsm.py. The functions named shim_* are not PKCS#11: the
 * test calls them through the same library handle. `real` is a private copy of libsofthsm2.so, so
 * that its state is not shared with a test that uses SoftHSM2 directly in the same process.
 */
#include <dlfcn.h>
#include <stddef.h>
#include <time.h>

#define FUNCTIONS 68
enum { INITIALIZE = 0, GET_TOKEN_INFO = 6, OPEN_SESSION = 12, LOGIN = 18, LOGOUT = 19,
       SIGN_INIT = 42, SIGN = 43 };

typedef unsigned long rv;
struct list {
    unsigned char version[2];
    void *function[FUNCTIONS];
};
struct initialize_args {
    void *mutexes[4];
    unsigned long flags;
    void *reserved;
};

static struct list mine;
static struct list *real;
static volatile int times[FUNCTIONS]; /* how often to fail; negative: for ever */
static volatile rv failure[FUNCTIONS];
static volatile int delay_ms[FUNCTIONS];
static volatile int calls[FUNCTIONS];
static volatile int corrupt;
static volatile unsigned long flags;

void shim_fail(int index, rv result, int count) { failure[index] = result; times[index] = count; }
void shim_delay(int index, int ms) { delay_ms[index] = ms; }
void shim_corrupt(int on) { corrupt = on; }
int shim_calls(int index) { return calls[index]; }
unsigned long shim_flags(void) { return flags; }

static rv called(int index) {
    __sync_fetch_and_add(&calls[index], 1);
    int left = delay_ms[index];
    while (left > 0) {
        struct timespec slice = {0, 10 * 1000 * 1000};
        nanosleep(&slice, NULL);
        left = delay_ms[index] > 0 ? left - 10 : 0; /* setting it to 0 ends the wait */
    }
    if (times[index] == 0) return 0;
    if (times[index] > 0) __sync_fetch_and_sub(&times[index], 1);
    return failure[index];
}

typedef rv (*f0)(unsigned long);
typedef rv (*f1)(void *);
typedef rv (*f2)(unsigned long, void *);
typedef rv (*f3)(unsigned long, void *, unsigned long);
typedef rv (*f4)(unsigned long, unsigned long, void *, unsigned long);
typedef rv (*f5)(unsigned long, unsigned long, void *, void *, void *);
typedef rv (*f6)(unsigned long, unsigned char *, unsigned long, unsigned char *, unsigned long *);

#define FAIL(index) { rv result = called(index); if (result) return result; }

static rv initialize(void *args) {
    flags = args ? ((struct initialize_args *)args)->flags : 0;
    FAIL(INITIALIZE)
    return ((f1)real->function[INITIALIZE])(args);
}
static rv get_token_info(unsigned long slot, void *info) {
    FAIL(GET_TOKEN_INFO)
    return ((f2)real->function[GET_TOKEN_INFO])(slot, info);
}
static rv open_session(unsigned long slot, unsigned long how, void *app, void *notify, void *out) {
    FAIL(OPEN_SESSION)
    return ((f5)real->function[OPEN_SESSION])(slot, how, app, notify, out);
}
static rv login(unsigned long session, unsigned long user, void *pin, unsigned long length) {
    FAIL(LOGIN)
    return ((f4)real->function[LOGIN])(session, user, pin, length);
}
static rv logout(unsigned long session) {
    FAIL(LOGOUT)
    return ((f0)real->function[LOGOUT])(session);
}
static rv sign_init(unsigned long session, void *mechanism, unsigned long key) {
    FAIL(SIGN_INIT)
    return ((f3)real->function[SIGN_INIT])(session, mechanism, key);
}
static rv sign(unsigned long session, unsigned char *data, unsigned long length,
               unsigned char *signature, unsigned long *size) {
    FAIL(SIGN)
    rv result = ((f6)real->function[SIGN])(session, data, length, signature, size);
    if (result == 0 && corrupt && signature && *size) signature[*size - 1] ^= 1;
    return result;
}

rv C_GetFunctionList(struct list **out) {
    if (!real) {
        void *library = dlopen(SHIM_REAL, RTLD_NOW | RTLD_LOCAL);
        rv (*get)(struct list **) =
            library ? (rv(*)(struct list **))dlsym(library, "C_GetFunctionList") : NULL;
        if (!get || get(&real)) return 5; /* CKR_GENERAL_ERROR */
        mine = *real;
        mine.function[INITIALIZE] = initialize;
        mine.function[GET_TOKEN_INFO] = get_token_info;
        mine.function[OPEN_SESSION] = open_session;
        mine.function[LOGIN] = login;
        mine.function[LOGOUT] = logout;
        mine.function[SIGN_INIT] = sign_init;
        mine.function[SIGN] = sign;
    }
    *out = &mine;
    return 0;
}
