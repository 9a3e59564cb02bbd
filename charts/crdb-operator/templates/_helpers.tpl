{{- define "crdb-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- define "crdb-operator.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- /* The nodes' network policies let in pods by this name: it must not be overridden. */}}
{{- define "crdb-operator.selectorLabels" -}}
app.kubernetes.io/name: crdb-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "crdb-operator.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "crdb-operator.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: crdb
{{- end }}

{{- define "crdb-operator.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "crdb-operator.securityContext" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
privileged: false
readOnlyRootFilesystem: true
runAsNonRoot: true
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "crdb-operator.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- /* What the operator does in a namespace that it works in, verb by verb. */}}
{{- define "crdb-operator.rules" -}}
- apiGroups: [crdb.dev]
  resources: [crdbclusters]
  verbs: [get, list, watch]
- apiGroups: [crdb.dev]
  resources: [crdbclusters/status]
  verbs: [patch]
# An owner reference that blocks deletion needs it where that is enforced.
- apiGroups: [crdb.dev]
  resources: [crdbclusters/finalizers]
  verbs: [update]
# Applying an object that does not exist yet needs create beside patch.
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [serviceaccounts]
  verbs: [get, list, create, patch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, create, patch, delete]
# A pod that is down is deleted so that it is made anew from a mended template.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, delete]
# Volume claims are marked with the store on them, and never deleted.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch, patch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}
