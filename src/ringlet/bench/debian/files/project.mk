# Builds the benchmark programs that run natively.
CC = gcc
CFLAGS = -std=gnu11 -O2 -ffreestanding -fno-stack-protector -fcf-protection=none -fno-pic \
    -fno-asynchronous-unwind-tables -fno-tree-loop-distribute-patterns -Ilib
LDFLAGS = -nostdlib -static -no-pie -Wl,--build-id=none,-z,noexecstack

objects = $(patsubst %.c,%.o,$(wildcard $(1)/*.c))
LIB = $(call objects,lib)
SECTIONS = $(filter-out cpu/main.o,$(call objects,cpu))

all: cpu.exe linux.exe driver.exe

cpu.exe: $(LIB) $(call objects,native) $(call objects,cpu)
linux.exe: $(LIB) native/native.o $(SECTIONS) $(call objects,linux)
driver.exe: $(LIB) $(call objects,driver)

%.exe:
	$(CC) $(LDFLAGS) -o $@ $^

%.o: %.c
	$(CC) $(CFLAGS) -c -o $@ $<

clean:
	rm -f *.exe */*.o

.PHONY: all clean
.DELETE_ON_ERROR:
