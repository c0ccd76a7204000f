// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
float first();
float second();

int main() { return first() > 0.0f && first() == second() ? 0 : 1; }
