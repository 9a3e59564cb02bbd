/* The process that holds a pod's namespaces: it sleeps, collects orphans, and ends when asked. */
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void on_child(int signal) {
	(void)signal;
	while (waitpid(-1, NULL, WNOHANG) > 0) {
	}
}

static void on_end(int signal) {
	(void)signal;
	_exit(0);
}

int main(void) {
	struct sigaction child = {.sa_handler = on_child, .sa_flags = SA_NOCLDSTOP};
	struct sigaction end = {.sa_handler = on_end};
	if (sigaction(SIGCHLD, &child, NULL) || sigaction(SIGTERM, &end, NULL) || sigaction(SIGINT, &end, NULL)) {
		return 1;
	}
	for (;;) {
		pause();
	}
}
